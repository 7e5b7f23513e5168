"""The manifest beside each artifact: what it is, what it was made from and how, what was checked and what was not."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable, Dict, Optional, Tuple

from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.files import atomic_path, sha256_of
from sr_deploy.core.jsonio import from_dict, read_json, to_json


@dataclass(frozen=True)
class Manifest:
    """Stored as `<artifact>.json`. Sizes are LR (h, w) in pixels; empty or None means unknown, never zero."""

    kind: str
    """`onnx` (a graph) or `engine` (built for a target)."""
    model: str
    variant: str
    arch: str
    scale: int
    min_shape: Tuple[int, int]
    opt_shape: Tuple[int, int]
    max_shape: Tuple[int, int]
    """The LR sizes it takes; all three are the same for a static graph."""
    input_dtype: str
    output_dtype: str
    precision_asked: str
    precision_obtained: str
    """What the tensors are computed in: `fp32`, `fp16`, or `mixed: ...`; read back from the artifact."""
    target: str
    """The target's name, empty for a graph exported for none."""
    parent_sha256: str
    """Of the checkpoint's weights (for a graph) or of the graph (for an engine)."""
    command: str
    """The options that made it; with `parent_sha256` and `versions` they decide whether it is up to date."""
    versions: Dict[str, str]
    sha256: str = ""
    input_name: str = "lr"
    output_name: str = "sr"
    opset: Optional[int] = None
    nodes: Optional[int] = None
    form: str = ""
    """Of a candidate among which a target's fastest is to be found: the form it writes the network in."""
    structure: str = ""
    """Variants of equal structure have the same layers, more or fewer of them: what is fastest for one is for all."""
    halo_px: Optional[int] = None
    """How far from an edge of a tile, in LR pixels, its outputs are those of the whole image; None: nowhere."""
    align_px: int = 1
    """That holds for tiles that start and end on multiples of this, or at the image's border."""
    min_px: Tuple[int, int] = (1, 1)
    checks: Dict[str, object] = field(default_factory=dict)
    """Each check done, with its numbers."""
    not_checked: Tuple[str, ...] = ()
    counts: Dict[str, object] = field(default_factory=dict)
    """params, macs, acts, convs, counter and uncounted of the network as trained, at 256x256, by the `hooks` counter; `fvcore`
    holds the same by that counter, `deployed` those of the graph's own network by both. Files of older versions lack these two.
    """
    build: Dict[str, object] = field(default_factory=dict)
    """What only this kind of engine has: seconds, sizes, compute capabilities, messages."""

    @property
    def dynamic(self) -> bool:
        return self.min_shape != self.max_shape


def mixed_precision(counts: Dict[str, int]) -> str:
    """Return how a manifest writes the precision of layers or tensors of several types: `mixed: 165 fp16, 3 fp32`."""
    return "mixed: " + ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))


def manifest_path(artifact: Path) -> Path:
    """Return where the manifest of `artifact` lies."""
    return artifact.with_name(artifact.name + ".json")


def read_manifest(artifact: Path, *, trust: bool = False) -> Manifest:
    """Read the manifest of `artifact` and verify the file against it, unless told to `trust` a file that was changed.

    Raises ArtifactError when the file or the manifest is missing, malformed, or the file was changed afterwards.
    """
    if not artifact.is_file():
        raise ArtifactError(f"there is no file {artifact}")
    path = manifest_path(artifact)
    if not path.is_file():
        raise ArtifactError(
            f"{artifact} has no manifest: expected {path.name} beside it",
            hint="export or build it with srdeploy",
        )
    manifest = parse_manifest(path)
    if not trust and sha256_of(artifact) != manifest.sha256:
        raise ArtifactError(
            f"{artifact} was changed after its manifest was written: its SHA-256 is not the one in {path.name}",
            hint="export or build it again; a changed artifact is not used",
        )
    return manifest


def parse_manifest(path: Path) -> Manifest:
    """Read a manifest without looking at its artifact. Raises ArtifactError when it is malformed."""
    manifest = from_dict(
        Manifest, read_json(path, ArtifactError), source=str(path), error=ArtifactError
    )
    check_manifest(manifest, source=str(path))
    return manifest


def check_manifest(manifest: Manifest, *, source: str) -> None:
    """Raise ArtifactError when a manifest holds what none of ours does: it goes into files' names, shapes and commands."""
    texts = {
        key: getattr(manifest, key)
        for key in ("model", "variant", "arch", "target", "form", "input_name", "output_name")
    }
    problem = next(
        (
            f"{key} '{text[:60]!r}'"
            for key, text in texts.items()
            if len(text) > 120 or not text.isprintable()
        ),
        "",
    )
    for key in ("input_dtype", "output_dtype", "precision_asked"):
        if getattr(manifest, key) not in ("fp32", "fp16"):
            problem = problem or f"{key} '{getattr(manifest, key)[:20]}'"
    sizes = (manifest.min_shape, manifest.opt_shape, manifest.max_shape)
    if not all(1 <= a <= b <= c <= 16384 for a, b, c in zip(*sizes)):
        problem = problem or f"the sizes {sizes}"
    if not 1 <= manifest.scale <= 16:
        problem = problem or f"the scale {manifest.scale}"
    if (
        not manifest.input_name
        or not manifest.output_name
        or manifest.kind not in ("onnx", "engine")
    ):
        problem = problem or "an empty name, or a kind that does not exist"
    if problem:
        raise ArtifactError(
            f"{source} is no manifest of ours: {problem[:200]}", hint="export or build it again"
        )


def is_up_to_date(artifact: Path, wanted: Manifest) -> bool:
    """Tell whether `artifact` is whole and was made from the same parent by the same options and versions."""
    try:
        found = read_manifest(artifact)
    except ArtifactError:
        return False
    recipe = (
        "kind",
        "parent_sha256",
        "command",
        "versions",
        "target",
        "model",
        "variant",
        "opset",
        "input_dtype",
    )
    return all(getattr(found, key) == getattr(wanted, key) for key in recipe)


def recorded_command(artifact: Path) -> str:
    """Return the command that made a whole artifact; empty when there is none."""
    try:
        return read_manifest(artifact).command
    except ArtifactError:
        return ""


def write_artifact(artifact: Path, write: Callable[[Path], Manifest]) -> Manifest:
    """Call `write(temporary)`, which writes the artifact and returns its manifest, and publish both; return the manifest.

    The pair is whole or absent: an old manifest goes before the new artifact comes, and the new one comes last.
    """
    path = manifest_path(artifact)
    try:
        with atomic_path(path) as temporary_manifest:
            with atomic_path(artifact) as temporary:
                manifest = replace(write(temporary), sha256=sha256_of(temporary))
                temporary_manifest.write_text(to_json(manifest), encoding="utf-8")
                path.unlink(missing_ok=True)
    except BaseException:  # Ctrl-C between the two renames, say
        if not path.exists():
            with contextlib.suppress(OSError):
                artifact.unlink()
        raise
    return manifest
