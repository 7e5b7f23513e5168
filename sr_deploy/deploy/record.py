"""`deploy.json`: what a folder is for and what is in it, so that a later start goes on."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Optional, Tuple

from sr_deploy.core.claims import claim_file
from sr_deploy.core.errors import InputError
from sr_deploy.core.files import make_output_folder, write_text
from sr_deploy.core.jsonio import read_dataclass, to_json

FILE = "deploy.json"
UNFINISHED = "unfinished"


@dataclass(frozen=True)
class DeployRecord:
    """The content of `deploy.json`."""

    model: str
    """The text that names the model."""
    name: str
    """The model's name, with the variant if only one was asked for. It identifies the folder."""
    target: str
    command: str = ""
    """The command that made it."""
    graphs: Tuple[str, ...] = ()
    """Names of files in `graphs/`."""
    engines: Tuple[str, ...] = ()
    """Names of files in `engines/`."""
    bundle: str = ""
    """The tar file that builds the engines elsewhere; empty without one."""
    chosen: str = ""
    """The chosen variant, `asrn_x4.d3`; empty: none is chosen yet."""
    artifact: str = ""
    """Its engine or graph, below the folder; empty if none is chosen or built."""
    why: str = UNFINISHED
    remarks: Tuple[str, ...] = ()
    by_time: bool = False
    """Whether it was chosen by times measured on the target."""
    next: Tuple[str, ...] = ()
    """The commands that come next, in order; empty if nothing is left to do."""
    report: str = ""
    """The page or, without its packages, empty."""
    schema: int = 1


def read_record(folder: Path) -> Optional[DeployRecord]:
    """Return the record of a folder; None if it is empty or does not exist.

    Raises InputError for a folder with other files.
    """
    if (folder / FILE).is_file():
        try:
            record = read_dataclass(DeployRecord, folder / FILE, InputError)
        except InputError as e:
            e.hint = e.hint or "give another folder with -o"
            raise
        if record.schema != 1:
            raise InputError(
                f"{folder / FILE} is of schema {record.schema}; expected 1",
                hint="give another folder with -o",
            )
        return record
    if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise InputError(
            f"the folder {folder} has other files, and no {FILE}: it is no deployment",
            hint="give a new folder with -o",
        )
    return None


def check_same(record: Optional[DeployRecord], name: str, target: str, folder: Path) -> None:
    """Raise InputError if the folder is of another model or target."""
    if record is not None and (record.name, record.target) != (name, target):
        raise InputError(
            f"{folder} is the deployment of {record.name} for {record.target}, "
            f"not of {name} for {target}",
            hint="give another folder with -o, or omit -o",
        )


def write_record(folder: Path, record: DeployRecord) -> None:
    write_text(folder / FILE, to_json(record))


@contextlib.contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Create the folder and hold it. Raises InputError while another process deploys into it."""
    make_output_folder(folder)
    with claim_file(folder / ".claim") as claimed:
        if not claimed:
            raise InputError(
                f"another deploy works in {folder}",
                hint="wait until it has finished, or give another folder with -o",
            )
        yield
