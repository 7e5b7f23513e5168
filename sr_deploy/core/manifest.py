"""The manifest beside each artifact: its contents, origin, build options and checks."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from sr_deploy.core.degradation import check_degradation
from sr_deploy.core.errors import ArtifactError, InputError
from sr_deploy.core.files import atomic_path, sha256_of
from sr_deploy.core.interface import Interface
from sr_deploy.core.jsonio import from_dict, read_dataclass, to_json
from sr_deploy.core.onnx_file import artifact_sha256, graph_sha256, is_graph
from sr_deploy.core.precisions import GRAPH_DTYPES, PRECISIONS, is_quantised
from sr_deploy.core.session import SizeContract
from sr_deploy.core.target import TargetProfile, load_target, same_version

if TYPE_CHECKING:
    from sr_deploy.core.parts import PlanEngine

_LIBRARIES = ("tensorrt", "tensorrt_rtx")


@dataclass(frozen=True)
class Manifest:
    """Stored as `<artifact>.json`. Sizes are LR (h, w) in pixels. Empty or None means unknown."""

    kind: str
    """`onnx` (a graph) or `engine` (built for a target)."""
    model: str
    variant: str
    arch: str
    scale: int
    min_shape: Tuple[int, int]
    opt_shape: Tuple[int, int]
    max_shape: Tuple[int, int]
    """The LR sizes it accepts; the three are equal for a static graph."""
    input_dtype: str
    output_dtype: str
    precision_asked: str
    precision_obtained: str
    """Data type of the tensors, read back from the artifact: `fp32`, `fp16`, or `mixed: ...`."""
    target: str
    """Name of the target; empty for a graph exported for none."""
    parent_sha256: str
    """SHA-256 of the checkpoint's weights (for a graph) or of the graph (for an engine)."""
    command: str
    """The command that made it; with `parent_sha256` and `versions` it decides `is_up_to_date`."""
    versions: Dict[str, str]
    sha256: str = ""
    input_name: str = "lr"
    output_name: str = "sr"
    opset: Optional[int] = None
    nodes: Optional[int] = None
    fp32_nodes: Tuple[str, ...] = ()
    """The nodes of a graph for FP16 engines that compute in FP32, by `export --fallback`, or since
    their operators have no FP16. A graph of FP16 tensors has them in FP32; builders of weakly typed
    networks are given their names."""
    form: str = ""
    """Of a graph exported as one of several candidates for autotuning: the form of the network."""
    structure: str = ""
    """Variants of equal structure differ only in the number of layers, so the fastest form for one
    is the fastest for all."""
    halo_px: Optional[int] = None
    """LR distance from a tile's edge where outputs equal the whole image's; None: nowhere."""
    align_px: int = 1
    """`halo_px` holds for tiles that start and end at multiples of this, or at the image border."""
    interface: Optional[Interface] = None
    """Of an imported graph: how the file takes and gives images. The other fields describe it with
    standard ends (see `runtime.standard_graph`). None: the file itself has these."""
    multiple: int = 1
    """The artifact takes LR sides that are multiples of this; sessions mirror others up."""
    min_px: Tuple[int, int] = (1, 1)
    degradation: str = "bi"
    """How the LR images are made that the network is trained for, as in `core/degradation.py`."""
    checks: Dict[str, object] = field(default_factory=dict)
    """The checks that were done, with their numbers."""
    not_checked: Tuple[str, ...] = ()
    counts: Dict[str, object] = field(default_factory=dict)
    """params, macs, acts, convs, counter, uncounted and uncounted_macs of the trained network at
    256x256 by the `hooks` counter; `fvcore`: the same by fvcore; `deployed`: those of the graph's
    own network by both counters. Files of older versions lack the last two."""
    profile: Optional[Dict[str, object]] = None
    """Of an engine for a target that is not shipped: its profile."""
    build: Dict[str, object] = field(default_factory=dict)
    """Facts of this kind of engine: seconds, sizes, compute capabilities, messages. Of an imported
    graph: what the file says of itself."""

    @property
    def graph_dtype(self) -> str:
        """`precision_obtained`; `fp16` also for an FP16 graph with some nodes in FP32.

        Of a quantised graph it is the type of its other tensors.
        """
        if is_quantised(self.precision_obtained):
            half = "fp16" in self.precision_obtained or self.input_dtype == "fp16"
            return "fp16" if half else "fp32"
        mixed = self.precision_obtained.startswith("mixed") and self.fp32_nodes
        return "fp16" if mixed else self.precision_obtained

    @property
    def psnr_db_vs_fp32(self) -> Optional[float]:
        """The PSNR of its output against that of FP32 in dB, as its checks measured it.

        Of an INT8 engine, the lower one of its graph when it was quantised, and of the engine when
        it was built. None: it was not measured, or it computes in FP32, which loses nothing.
        """
        if self.precision_obtained == "fp32":
            return None
        checks = (self.checks.get(name) for name in ("accuracy", "int8", "fp16"))
        found = [check.get("psnr_db_vs_fp32") for check in checks if isinstance(check, dict)]
        return min((float(n) for n in found if isinstance(n, (int, float))), default=None)

    @property
    def sizes(self) -> SizeContract:
        """The LR sizes that it takes."""
        return SizeContract(
            self.min_shape,
            self.max_shape,
            halo_px=self.halo_px,
            align_px=self.align_px,
            multiple=self.multiple,
        )

    @property
    def dynamic(self) -> bool:
        return self.min_shape != self.max_shape


def target_of(made: Union[Manifest, PlanEngine]) -> TargetProfile:
    """Return the profile that an artifact, or the engines of a plan, were made for.

    Raises TargetError if there is none of that name here, ArtifactError if its own is malformed.
    """
    if made.profile is None:
        return load_target(made.target)
    source = "the profile in the manifest"
    return from_dict(TargetProfile, made.profile, source=source, error=ArtifactError)


def manifest_path(artifact: Path) -> Path:
    """Return the path of the manifest of `artifact`."""
    return artifact.with_name(artifact.name + ".json")


def read_manifest(artifact: Path, *, trust: bool = False) -> Manifest:
    """Read the manifest of `artifact` and verify the file's SHA-256, unless `trust` is set.

    Raises ArtifactError if the file or the manifest is missing, the manifest is malformed, or the
    file was changed afterwards.
    """
    if not artifact.is_file():
        raise ArtifactError(f"there is no file {artifact}")
    path = manifest_path(artifact)
    if not path.is_file():
        how = f"import it with: srdeploy import-onnx {artifact.name} -o DIR"
        raise ArtifactError(
            f"{artifact} has no manifest: expected {path.name} beside it",
            hint=how if artifact.suffix == ".onnx" else "build it with: srdeploy build-engine",
        )
    manifest = parse_manifest(path)
    if not trust and artifact_sha256(artifact) != manifest.sha256:
        raise ArtifactError(
            f"{artifact} was changed after its manifest was written: "
            f"its SHA-256 differs from the one in {path.name}",
            hint="export or build it again; changed artifacts are refused",
        )
    return manifest


def parse_manifest(path: Path) -> Manifest:
    """Read a manifest without looking at its artifact. Raises ArtifactError if it is malformed."""
    manifest = read_dataclass(Manifest, path, ArtifactError)
    check_manifest(manifest, source=str(path))
    return manifest


def check_manifest(manifest: Manifest, *, source: str) -> None:
    """Raise ArtifactError for invalid values: they go into file names, shapes and commands."""
    for problem in _problems(manifest):
        raise ArtifactError(
            f"{source} is not a valid manifest: {problem[:200]}", hint="export or build it again"
        )


def _problems(manifest: Manifest) -> Iterator[str]:
    for key in ("model", "variant", "arch", "target", "form", "input_name", "output_name"):
        text = getattr(manifest, key)
        if len(text) > 120 or not text.isprintable():
            yield f"{key} '{text[:60]!r}'"
    for key, known in (
        ("input_dtype", GRAPH_DTYPES),
        ("output_dtype", GRAPH_DTYPES),
        ("precision_asked", PRECISIONS),
    ):
        if getattr(manifest, key) not in known:
            yield f"{key} '{getattr(manifest, key)[:20]}'"
    sizes = (manifest.min_shape, manifest.opt_shape, manifest.max_shape)
    if not all(1 <= a <= b <= c <= 16384 for a, b, c in zip(*sizes)):
        yield f"the sizes {sizes}"
    if not 1 <= manifest.scale <= 16:
        yield f"the scale {manifest.scale}"
    try:
        check_degradation(manifest.degradation, manifest.scale)
    except InputError as e:
        yield e.message
    for key in ("align_px", "multiple"):
        if not 1 <= getattr(manifest, key) <= 16384:
            yield f"{key} {getattr(manifest, key)}"
    if not 0 <= (manifest.halo_px or 0) <= 16384:
        yield f"halo_px {manifest.halo_px}"
    if not all(1 <= side <= 16384 for side in manifest.min_px):
        yield f"min_px {manifest.min_px}"
    if not manifest.input_name or not manifest.output_name:
        yield "an empty tensor name"
    if manifest.interface is not None:
        yield from manifest.interface.problems()
    if not all(name.isprintable() and 0 < len(name) <= 400 for name in manifest.fp32_nodes):
        yield "a name in fp32_nodes"
    if manifest.kind not in ("onnx", "engine"):
        yield f"the kind '{manifest.kind[:20]}'"
    yield from _problems_of_losses(manifest.checks)


def _problems_of_losses(checks: Dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the losses in dB, which rows and bounds are made of."""
    for name in ("accuracy", "int8", "fp16"):
        check = checks.get(name, {})
        psnr_db = check.get("psnr_db_vs_fp32", 0.0) if isinstance(check, dict) else None
        if not _is_finite(psnr_db):
            yield f"checks.{name}"
            return
    record: Any = checks.get("int8", {})
    curve = record.get("curve", [])
    points = curve if isinstance(curve, list) else [None]
    for point in points:
        if not (isinstance(point, dict) and all(_is_finite(point.get(k)) for k in _POINT)):
            yield "the curve of checks.int8"
            return


_POINT = ("kept", "loss_db")


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def is_up_to_date(artifact: Path, expected: Manifest) -> bool:
    """Whether `artifact` is intact and was made from the same parent, options and versions."""
    try:
        manifest = read_manifest(artifact)
    except ArtifactError:
        return False
    keys = "kind parent_sha256 command target model variant opset input_dtype".split()
    same = all(getattr(manifest, key) == getattr(expected, key) for key in keys)
    return same and same_versions(manifest.versions, expected.versions)


UP_TO_DATE = "up to date"


def up_to_date_lines(paths: Sequence[Path]) -> List[str]:
    """Return a line for each folder with artifacts that are up to date.

    >>> up_to_date_lines([Path("a.onnx")])
    ['a.onnx: up to date']
    """
    folders: Dict[Path, List[str]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path.name)
    return [
        f"{names[0]}: up to date" if len(names) == 1 else f"{folder}: {len(names)} are up to date"
        for folder, names in folders.items()
    ]


def same_versions(a: Mapping[str, str], b: Mapping[str, str]) -> bool:
    """Whether all versions agree; TensorRT's in the numbers that both have."""
    return set(a) == set(b) and all(
        value == b[key] or (key in _LIBRARIES and same_version(value, b[key]))
        for key, value in a.items()
    )


def recorded_command(artifact: Path) -> str:
    """Return the command that made an artifact; empty if there is no intact one."""
    try:
        return read_manifest(artifact).command
    except ArtifactError:
        return ""


def write_artifact(artifact: Path, write: Callable[[Path], Manifest]) -> Manifest:
    """Call `write(temporary)`, which writes the artifact and returns its manifest; publish both.

    Both files appear or neither does: the old manifest is removed before the new artifact is
    renamed, and the new manifest comes last. Returns the manifest with its SHA-256.
    """
    path = manifest_path(artifact)
    try:
        with atomic_path(path) as temporary_manifest:
            with atomic_path(artifact) as temporary:
                manifest = write(temporary)
                # Of an artifact's name, since `temporary` does not show what it is.
                digest = graph_sha256 if is_graph(artifact) else sha256_of
                manifest = replace(manifest, sha256=digest(temporary))
                temporary_manifest.write_text(to_json(manifest), encoding="utf-8")
                path.unlink(missing_ok=True)
    except BaseException:  # for example Ctrl-C between the two renames
        if not path.exists():
            with contextlib.suppress(OSError):
                artifact.unlink()
        raise
    return manifest
