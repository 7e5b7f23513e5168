"""Imports ONNX graphs of anyone: a manifest beside an unchanged copy."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Tuple, Union

import numpy as np

from sr_deploy.core.counts import NTIRE_HW
from sr_deploy.core.errors import (
    ArtifactError,
    CannotRunHereError,
    InputError,
    MissingPackageError,
    one_line,
)
from sr_deploy.core.files import atomic_path, make_output_folder, sha256_of, write_text
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.interface import Interface, valid_values, values_text
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.manifest import Manifest, check_manifest, manifest_path, write_artifact
from sr_deploy.core.onnx_file import graph_sha256, weight_files
from sr_deploy.core.samples import sample_lr
from sr_deploy.core.session import SizeContract
from sr_deploy.core.sizes import HW, hw_text, up_to_multiple
from sr_deploy.core.spec import Variant, network_name
from sr_deploy.core.version import __version__
from sr_deploy.runtime.graph_counts import count_graph
from sr_deploy.runtime.graph_interface import (
    ASSUMED,
    LARGEST_SIDE,
    Values,
    Wishes,
    luma_nchw,
    network_image,
    network_input,
    resemblance_db,
)
from sr_deploy.runtime.graph_nodes import opset_of
from sr_deploy.runtime.graph_probe import (
    DECLARED_PX,
    GraphContract,
    bounded_memory,
    graph_precision,
    photograph_hw,
    probe_graph,
)
from sr_deploy.runtime.onnx_view import load_graph
from sr_deploy.runtime.ort import raw_session
from sr_deploy.runtime.ort_providers import onnxruntime_module, short_reason
from sr_deploy.runtime.receptive_field import FieldReport, measure_field
from sr_deploy.runtime.standard_graph import INPUT, serialised, standard_graph

LARGEST_SCALE = 16
MAX_ABS_ERR = {"fp32": 1e-4, "fp16": 4e-3, "uint8": 4e-2}
"""Allowed between the standard graph and the file fed by hand, by the types of its ends: what FP16
rounds, and what a level of bytes can become in a network."""
USUAL_SIDE = 256
_NAME = re.compile(r"[^\x00-\x1f/\\:*?\"<>|]{1,100}")
_DOWNLOAD = "give an .onnx file; weights are imported with: srdeploy import-checkpoint FILE -o DIR"


@dataclass(frozen=True)
class ImportOptions:
    """What the user knows of a graph. Raises InputError for values that cannot be.

    >>> options = sr_deploy.ImportOptions(name="mine", value_range="255")
    """

    scale: Optional[int] = None
    """What it enlarges by; None: as found."""
    output: Optional[str] = None
    """The output that is the image, of a graph with several."""
    name: Optional[str] = None
    """Of the model; None: the file's."""
    variant: str = ""
    value_range: Optional[str] = None
    """The values of black and white: `255`, `LOW:HIGH`, or `LOW:HIGH,LOW:HIGH` for an output that
    differs from the input; None: found by photographs."""
    bgr: bool = False
    simplify: bool = False
    """Fold constants and drop what is without effect, with onnxslim; the copy is another file."""

    def __post_init__(self) -> None:
        Variant.parse(self.variant)
        if self.value_range is not None:
            parse_values(self.value_range)

    @property
    def wishes(self) -> Wishes:
        values = parse_values(self.value_range) if self.value_range is not None else None
        return Wishes(self.output, values, self.bgr)

    def command(self, file: Path, name: str) -> str:
        """Return the command that imports `file` as `name`."""
        words = ["srdeploy", "import-onnx", file.name, "--name", name]
        for option, value in (
            ("--output-name", self.output),
            ("--variant", self.variant or None),
            ("--value-range", self.value_range),
        ):
            words += [f"{option}={value}"] if value is not None else []
        words += ["--bgr"] * self.bgr + ["--simplify"] * self.simplify
        return " ".join(map(shlex.quote, words))


def parse_values(text: str) -> Tuple[Values, Values]:
    """Read `255`, `-1:1`, `0:1,-1:1`: the values of black and white of input and output."""
    try:
        ends = [_parse_range(part) for part in text.split(",")]
    except ValueError:
        ends = []
    if len(ends) not in (1, 2) or not all(map(valid_values, ends)):
        raise InputError(
            f"'{text}' is not a range of values; expected LOW:HIGH or HIGH, for example 0:1, 255 "
            "or -1:1, or two of them for input and output: 0:1,-1:1"
        )
    return ends[0], ends[-1]


def _parse_range(text: str) -> Values:
    low, colon, high = text.rpartition(":")
    return (float(low) if colon else 0.0), float(high)


@dataclass(frozen=True)
class ImportedGraph:
    """An imported graph."""

    path: Path
    manifest: Manifest
    notes: Tuple[str, ...]
    """What the user should know: what was assumed or left out."""


def graph_from_file(
    file: Union[str, Path],
    folder: Union[str, Path],
    options: Optional[ImportOptions] = None,
) -> ImportedGraph:
    """Import an ONNX graph of anyone into `folder`: an unchanged copy, and a manifest beside it.

    >>> imported = sr_deploy.graph_from_file("network.onnx", "imported")
    >>> imported.path.name, imported.manifest.scale
    ('network.onnx', 2)

    The files of external weights are copied with it. Raises InputError for a file that is not
    there or a name that cannot be used, ArtifactError for a damaged graph, and CannotRunHereError
    for one that is no super-resolution network of single images, or that ONNX Runtime cannot run.
    Nothing is written then.
    """
    file, options = Path(file), options or ImportOptions()
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise InputError(f"{file} {what}", hint=_DOWNLOAD)
    name = _model_name(file, options)
    with tempfile.TemporaryDirectory(prefix="srdeploy-import-") as temporary:
        source = _simplified(file, Path(temporary)) if options.simplify else file
        model = _load(source)
        imported = _describe(source, model, options)
        manifest = replace(
            imported.manifest,
            model=name,
            parent_sha256=graph_sha256(file),
            command=options.command(file, name),
            build={"file": _printable(file.name), **imported.manifest.build},
        )
        if options.simplify:
            before = len(_load(file).graph.node)
            nodes = f"{before} nodes before, {manifest.nodes} after"
            manifest.checks["simplified"] = f"the copy is not the file: by onnxslim, {nodes}"
        check_manifest(manifest, source=f"the manifest of {file}")
        path = Path(folder) / f"{network_name(name, options.variant)}.onnx"
        manifest = _write(source, path, manifest)
    return ImportedGraph(path, manifest, imported.notes)


def _model_name(file: Path, options: ImportOptions) -> str:
    name = file.stem if options.name is None else options.name
    if not _NAME.fullmatch(name) or not name.isprintable() or name.strip(". ") != name:
        raise InputError(
            f"'{_printable(name)}' cannot be the name of a model: expected up to 100 printable "
            "characters that every file system takes, and no dot or space at an end",
            hint="give another one with --name NAME",
        )
    return name


def _printable(text: str) -> str:
    safe = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else "?" for c in safe)[:200]


def _load(file: Path) -> Any:
    try:
        return load_graph(file)
    except ArtifactError as e:
        if not e.message.endswith("is not an ONNX graph"):
            raise
        raise ArtifactError(e.message, hint=_DOWNLOAD) from e


def _simplified(file: Path, folder: Path) -> Path:
    """Write the graph as onnxslim simplifies it; return the path."""
    try:
        import onnxslim
    except ImportError as e:
        raise MissingPackageError("onnxslim", needed_for="--simplify", cause=e) from e
    import onnx

    try:
        model = onnxslim.slim(_load(file))
        path = folder / "simplified.onnx"
        onnx.save(model, str(path))
    except ArtifactError:
        raise
    except Exception as e:  # onnxslim raises what its passes do
        raise ArtifactError(
            f"onnxslim cannot simplify {file}: {one_line(e)}", hint="omit --simplify"
        ) from e
    return path


def _describe(file: Path, model: Any, options: ImportOptions) -> ImportedGraph:
    """Run and check a graph; return its manifest without names, and notes."""
    with bounded_memory(file):
        session = raw_session(str(file))
        contract = probe_graph(file, session, options.wishes)
    if options.scale not in (None, contract.scale):
        raise InputError(
            f"{file} enlarges by {contract.scale}, not by {options.scale} as --scale says",
            hint=f"omit --scale, or give --scale {contract.scale}",
        )
    if contract.scale > LARGEST_SCALE:
        raise CannotRunHereError(
            f"{file} enlarges by {contract.scale}; expected at most {LARGEST_SCALE}"
        )
    standard = raw_session(_standard_bytes(file, model, contract))
    checks, not_checked = _checks(file, session, standard, contract)
    counts, uncounted = _counts(model, contract)
    field = _field(standard, contract)
    checks["tiles"] = {"difference": field.difference, "how": field.how}
    not_checked += tuple(filter(None, (uncounted, "" if field.exact else str(field))))
    precision = graph_precision(file)
    low, opt, high = _shapes(contract.sizes)
    manifest = Manifest(
        kind="onnx",
        model="",
        variant=options.variant,
        arch="",
        scale=contract.scale,
        min_shape=low,
        opt_shape=opt,
        max_shape=high,
        input_dtype="fp32",
        output_dtype="fp32",
        precision_asked="fp16" if precision == "fp16" else "fp32",
        precision_obtained=precision,
        target="",
        parent_sha256="",
        command="",
        versions={"srdeploy": __version__, "onnxruntime": onnxruntime_module().__version__},
        opset=opset_of(model),
        nodes=len(model.graph.node),
        halo_px=field.halo_px,
        align_px=field.align_px,
        multiple=contract.sizes.multiple,
        interface=contract.interface,
        min_px=low,
        checks=checks,
        not_checked=not_checked,
        counts=counts,
        build=_origin(model),
    )
    return ImportedGraph(file, manifest, not_checked)


def _shapes(sizes: SizeContract) -> Tuple[HW, HW, HW]:
    """Return the smallest LR size, a usual one, and the largest."""
    n = sizes.multiple
    low = sizes.min_hw[0], sizes.min_hw[1]
    most = sizes.max_hw or (LARGEST_SIDE, LARGEST_SIDE)
    high = min(most[0], LARGEST_SIDE), min(most[1], LARGEST_SIDE)
    h, w = (
        a if a == b else max(min(-(-USUAL_SIDE // n) * n, b // n * n), a) for a, b in zip(low, high)
    )
    return low, (h, w), high


def _origin(model: Any) -> Dict[str, object]:
    """Return what the file says of where it comes from."""
    producer = f"{model.producer_name} {model.producer_version}".strip()
    facts = {
        "producer": producer,
        "domain": model.domain,
        "model_version": str(model.model_version or ""),
        "about": model.doc_string,
        **{f"metadata {p.key}": p.value for p in model.metadata_props},
    }
    return {_printable(key): _printable(value) for key, value in facts.items() if value}


def _standard_bytes(file: Path, model: Any, contract: GraphContract) -> bytes:
    try:
        return serialised(standard_graph(model, contract.interface, contract.scale))
    except CannotRunHereError as e:
        raise CannotRunHereError(f"{file}: {e.message}") from e


def _field(standard: Any, contract: GraphContract) -> FieldReport:
    hw, multiple = photograph_hw(contract.sizes), contract.sizes.multiple
    if hw[0] * hw[1] > DECLARED_PX:
        return FieldReport(None, multiple, None, f"its only size, {hw_text(hw)}, was not run")
    return measure_field(
        lambda x: standard.run(None, {INPUT: x})[0], scale=contract.scale, sizes=contract.sizes
    )


def _counts(model: Any, contract: GraphContract) -> Tuple[Dict[str, Any], str]:
    """Return the counts as in a manifest, and why there are none."""
    hw = up_to_multiple(NTIRE_HW, contract.sizes.multiple)
    try:
        return count_graph(model, hw, contract.interface), ""
    except ArtifactError as e:
        return {}, f"counts: {e.message}"


def _checks(
    file: Path, session: Any, standard: Any, contract: GraphContract
) -> Tuple[Dict[str, object], Tuple[str, ...]]:
    """Run the file and its standard graph on a photograph: (checks, not checked).

    Raises ArtifactError if an output is not finite, or the two differ.
    """
    interface, scale, hw = contract.interface, contract.scale, photograph_hw(contract.sizes)
    source, target = (values_text(end.values) for end in (interface.input, interface.output))
    how = contract.values_from
    checks: Dict[str, object] = {"values": f"{source} to {target}, {how}"}
    left = [f"values of black and white: {source} is assumed"] if how == ASSUMED else []
    if interface.colours == "rgb":
        left.append("order of colours: RGB is assumed, since no image shows that it is BGR")
    if interface.other_outputs:
        names = ", ".join(map(_printable, interface.other_outputs))
        left.append(f"outputs that are not used: {names}")
    if hw[0] * hw[1] > DECLARED_PX:
        return checks, (*left, f"everything else: its only size, {hw_text(hw)}, was not run")
    x = nchw_from_rgb(sample_lr(hw, count=1)[0])
    try:
        y = session.run(
            [interface.output.name], {interface.input.name: network_input(x, interface)}
        )
    except Exception as e:  # onnxruntime's errors share no base class
        problem = f"onnxruntime cannot run {file} at {hw_text(hw)}: {short_reason(e)}"
        raise CannotRunHereError(problem) from e
    by_hand = network_image(y[0], interface)
    if not np.isfinite(by_hand).all():
        raise ArtifactError(f"the output of {file} for a photograph is not finite")
    by_graph = standard.run(None, {INPUT: x})[0]
    error = _difference(by_graph, by_hand, interface)
    allowed = max(MAX_ABS_ERR[end.dtype] for end in (interface.input, interface.output))
    if not error <= allowed:
        raise ArtifactError(
            f"with standard ends, the output of {file} differs by {error:.2g} from what the file "
            f"computes, expected at most {allowed:g}"
        )
    alike = resemblance_db(x, y[0], interface, scale)
    checks["runs"] = f"at {hw_text(hw)}, finite"
    checks["standard_graph_vs_file"] = {"max_abs_err": error}
    checks["output_shrunk_vs_input"] = {"psnr_db": round(alike, 2), "at": hw_text(hw)}
    return checks, tuple(left)


def _difference(by_graph: np.ndarray, by_hand: np.ndarray, interface: Interface) -> float:
    """Return the largest difference, relative to the largest output where that is above 1."""
    seen = luma_nchw(by_graph) if interface.colours == "y" else by_graph
    return float(np.abs(seen - by_hand).max()) / max(1.0, float(np.abs(by_hand).max()))


def _write(source: Path, path: Path, manifest: Manifest) -> Manifest:
    """Write graph, external weights and manifest. Raises InputError instead of replacing others."""
    folder = make_output_folder(path.parent)
    if path.exists() and path.samefile(source):
        manifest = replace(manifest, sha256=graph_sha256(path))
        write_text(manifest_path(path), to_json(manifest))
        return manifest
    is_ours = manifest_path(path).is_file()
    if path.exists() and not is_ours and sha256_of(path) != sha256_of(source):
        raise InputError(
            f"{path} already exists, and is another file without a manifest",
            hint="give another folder with -o, or another name with --name",
        )

    def write(temporary: Path) -> Manifest:
        shutil.copyfile(str(source), str(temporary))
        return manifest

    with _copied_weights(source, folder):
        return write_artifact(path, write)


@contextlib.contextmanager
def _copied_weights(source: Path, folder: Path) -> Iterator[None]:
    """Copy the files of external weights; remove the copies if what follows fails.

    Raises InputError where one would replace another.
    """
    names = weight_files(source)
    for name in names:
        old, new = source.parent / name, folder / name
        if new.exists() and sha256_of(new) != sha256_of(old):
            raise InputError(
                f"{new}, the name of the weights of {source}, already exists with other content",
                hint="give another folder with -o",
            )
    missing = [name for name in names if not (folder / name).exists()]
    try:
        for name in missing:
            with atomic_path(folder / name) as temporary:
                shutil.copyfile(str(source.parent / name), str(temporary))
        yield
    except BaseException:
        for name in missing:
            with contextlib.suppress(OSError):
                (folder / name).unlink()
        raise
