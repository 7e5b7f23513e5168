"""The catalogue OpenModelDB: finding networks in it, and importing them with their licences."""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from http.client import HTTPException
from pathlib import Path
from typing import Any, Dict, List, Optional
from zipfile import BadZipFile

from sr_deploy.core.errors import InputError, MissingPackageError, did_you_mean
from sr_deploy.nets.checkpoint import Checkpoint
from sr_deploy.nets.importers import checkpoint_from_file

WEIGHTS = ("safetensors", "pth", "pt", "ckpt")
"""Types of files that can be imported, the preferred first."""


def find_online(text: str = "") -> List[Dict[str, Any]]:
    """Return the networks of the catalogue whose id, name, author or tags contain `text`.

    Fetches the catalogue, which is kept for an hour. Raises InputError where it cannot be reached,
    MissingPackageError.
    """
    wanted = text.lower()
    return [
        {
            "name": model.id,
            "arch": model.architecture,
            "scale": model.scale,
            "author": model.author,
            "licence": model.license or "",
            "tags": list(model.tags),
        }
        for model in _catalogue().models
        if any(wanted in str(t).lower() for t in (model.id, model.name, model.author, *model.tags))
    ]


def checkpoint_from_catalogue(name: str, folder: Path, *, stem: Optional[str] = None) -> Checkpoint:
    """Download a network by its id or name, import it to `folder`, and return it.

    The client checks the file against the catalogue's SHA-256. It is imported as by
    `checkpoint_from_file`; licence, author and tags go onto the card. stem: the name of the
    checkpoint; None: the id.
    Raises InputError (not in the catalogue, no weights, not reachable), CheckpointError (not of a
    known network), MissingPackageError.
    """
    catalogue = _catalogue()
    model = _find(catalogue, name)
    resources = {str(r.get("type", "")).lower(): r for r in reversed(model.resources)}
    kind = next((kind for kind in WEIGHTS if kind in resources), None)
    if kind is None:
        raise InputError(
            f"'{model.id}' is offered as {', '.join(resources) or 'no file'} only; "
            f"expected {', '.join(WEIGHTS)}",
            hint="download a graph from https://openmodeldb.info, and use: srdeploy import-onnx",
        )
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / f"{re.sub('[^A-Za-z0-9_-]+', '-', model.id)}.{kind}"
        Path(_download(catalogue, model, kind, temporary)).rename(file)
        sha256 = resources[kind].get("sha256")  # which the download was checked against
        checked = f"SHA-256 {sha256}" if sha256 else "which has no checksum of it"
        tags = f" ({', '.join(model.tags)})" if model.tags else ""
        card = {
            "licence": model.license or "",
            "trained_on": str(model.data.get("dataset") or ""),
            "notes": f"{model.name} by {model.author}{tags}, from OpenModelDB, {checked}",
        }
        return checkpoint_from_file(None, file, folder, name=stem, card=card)


def _catalogue() -> Any:
    """Return the client of the catalogue, which is fetched. Raises InputError if it cannot be."""
    try:
        import openmodeldb
    except ImportError as e:
        raise MissingPackageError(
            "openmodeldb", needed_for="the catalogue OpenModelDB", cause=e
        ) from e
    catalogue = openmodeldb.OpenModelDB()
    try:
        catalogue.models  # noqa: B018 - fetches
    except (openmodeldb.OpenModelDBError, OSError) as e:
        raise InputError(
            f"the catalogue OpenModelDB cannot be fetched: {e}",
            hint="check the network; a file that you have: srdeploy import-checkpoint FILE -o DIR",
        ) from e
    return catalogue


def _find(catalogue: Any, name: str) -> Any:
    """Return the network with this id or name. Raises InputError unless there is exactly one."""
    found = [m for m in catalogue.models if name.lower() in (m.id.lower(), m.name.lower())]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"several networks of OpenModelDB have the name '{name}'",
            hint=f"name one by its id: {', '.join(m.id for m in found)}",
        )
    raise InputError(
        f"there is no network '{name}' in OpenModelDB",
        hint=did_you_mean(name, [m.id for m in catalogue.models])
        or "srdeploy models --online lists them",
    )


def _download(catalogue: Any, model: Any, kind: str, folder: str) -> str:
    """Download a file to a folder; return its path. Raises InputError."""
    from openmodeldb import OpenModelDBError

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return str(catalogue.download(model, dest=folder, format=kind, quiet=True))
    except (OpenModelDBError, OSError, HTTPException, BadZipFile, ValueError) as e:
        raise InputError(
            f"'{model.id}' cannot be downloaded: {e}",
            hint="download it from https://openmodeldb.info, then: "
            "srdeploy import-checkpoint FILE -o DIR",
        ) from e
