"""Engines and graphs of models, made once for this machine and kept in the user's cache.

An entry is a folder with one file and its manifest, or with the reason why there is none. Its name
has a checksum of everything that decides the file: weights, card, target, precision, libraries, and
the code that exports. It is made beside its place and renamed, so that it is whole, and several
processes may make it at once.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, Optional

from sr_deploy.core.cache import cache_folder, key_of
from sr_deploy.core.errors import (
    ArtifactError,
    BuildError,
    ExportError,
    MissingPackageError,
    SrDeployError,
    TargetError,
)
from sr_deploy.core.files import (
    files_with_suffix,
    make_output_folder,
    sha256_of,
    write_bytes,
    write_text,
)
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.manifest import Manifest, manifest_path, read_manifest
from sr_deploy.core.providers import BUILDERS
from sr_deploy.core.shipped import is_trained_for_int8, shipped_graphs
from sr_deploy.core.sizes import parse_sizes, up_to_multiple
from sr_deploy.core.spec import ModelSpec, network_name
from sr_deploy.core.target import TargetProfile, load_target
from sr_deploy.core.version import __version__
from sr_deploy.fast.ways import ModelWay
from sr_deploy.runtime import BACKENDS
from sr_deploy.runtime.cuda import cuda

_PACKAGE = Path(__file__).resolve().parents[1]
_OPT_PX, _MOST_PX, _MOST_TENSORRT_PX = 256, 16384, 1024
"""LR sides of graphs. TensorRT chooses kernels and memory for the largest."""
_REFUSED = "refused.txt"
"""In the place of an engine that computes too wrongly, or not in its precision: the reason."""
_UNUSED_DAYS = 90
"""An entry that was not used for so long is removed when another is made."""
_ENTRY = re.compile(r"\.partial-.+|.+\.[0-9a-f]{16}")
"""The names of entries and of unfinished ones: the cache may be put into a folder with others."""


@dataclass(frozen=True)
class ModelVariant:
    """A variant of a checkpoint."""

    weights: Path
    card: ModelSpec
    variant: str

    @property
    def name(self) -> str:
        return network_name(self.weights.stem, self.variant)

    @property
    def is_trained_for_int8(self) -> bool:
        return is_trained_for_int8(self.weights, self.variant)


def find(model: ModelVariant, way: ModelWay) -> Optional[Path]:
    """Return the file that was made of a model for a way; None if there is none that is whole."""
    entry = _entry(model, way)
    for path in files_with_suffix(entry, ".engine", ".onnx") if entry.is_dir() else ():
        with contextlib.suppress(ArtifactError):
            read_manifest(path)
            mark_used(entry)
            return path
    return None


def mark_used(entry: Path) -> None:
    """Keep an entry of the cache from being removed as unused."""
    with contextlib.suppress(OSError):
        os.utime(str(entry))


def why_refused(model: ModelVariant, way: ModelWay) -> str:
    """Return why it could not be made for a way before; empty if it was not tried."""
    with contextlib.suppress(OSError, ValueError):
        return (_entry(model, way) / _REFUSED).read_text(encoding="utf-8")
    return ""


def make(model: ModelVariant, way: ModelWay) -> Path:
    """Make the file of a model for a way, and return its place in the cache.

    Raises an SrDeployError if it cannot be exported or built, or the cache cannot be written. Of a
    precision below FP32, a failure to export or build is remembered (see `why_refused`).
    """
    entry = _entry(model, way)

    def write(folder: Path, beside: Path) -> None:
        try:
            _make_file(model, way, folder, beside)
        except (BuildError, ExportError) as e:
            if way.is_bounded:
                with contextlib.suppress(SrDeployError, OSError):
                    write_text(entry / _REFUSED, e.message)
            raise

    return make_entry(entry, write, lambda: find(model, way))


def make_entry(
    entry: Path, write: Callable[[Path, Path], Any], find_whole: Callable[[], Optional[Path]]
) -> Path:
    """Make an entry of the cache and return its file.

    write: writes the entry to a folder that does not exist yet; beside: a folder that is removed
    afterwards. find_whole: returns the file in the entry, None if that is not whole. Raises what
    `write` raises, and an SrDeployError if the cache cannot be written.
    """
    _remove_unused(make_output_folder(entry.parent))
    with tempfile.TemporaryDirectory(dir=str(entry.parent), prefix=".partial-") as temporary:
        folder = Path(temporary) / "entry"
        write(folder, Path(temporary) / "beside")
        if os.path.lexists(str(entry)) and find_whole() is None:  # damaged
            shutil.rmtree(str(entry), ignore_errors=True)
            with contextlib.suppress(OSError):
                entry.unlink()
        with contextlib.suppress(OSError):  # another process has made it meanwhile
            os.rename(str(folder), str(entry))
    made = find_whole()
    if made is None:
        raise ArtifactError(f"the cache folder {entry} was changed while it was written")
    return made


def _make_file(model: ModelVariant, way: ModelWay, folder: Path, beside: Path) -> None:
    """Write the engine or graph of a way to a folder; beside: a folder for its graph."""
    graph = shipped_graph(model, way, beside)
    if graph is None:
        try:
            graph = export_graph(model, way, beside)
        except MissingPackageError:  # then one in the form of another target, which is slower
            graph = shipped_graph(model, way, beside, any_form=True)
            if graph is None:
                raise
    if way.builds:
        from sr_deploy.runtime.build import engine_from_onnx

        engine_from_onnx(graph, folder, target=way.target)
        return
    for path in (graph, manifest_path(graph)):
        write_bytes(folder / path.name, path.read_bytes())


def is_made(path: Path) -> bool:
    """Return whether a file is one of the cache."""
    return cache_folder() / "models" in path.parents


def export_graph(model: ModelVariant, way: ModelWay, folder: Path) -> Path:
    """Export the graph that the engine of a way is built of, to a folder; return its path.

    Raises an SrDeployError, also for INT8 of a model that was not trained for it.
    """
    try:
        from sr_deploy.export.pipeline import ExportOptions, onnx_from_checkpoint
    except ImportError as e:
        package = (e.name or "torch").split(".")[0]
        raise MissingPackageError(package, needed_for="preparing a model, once,") from e
    options = ExportOptions(
        variants=[model.variant],
        sizes=[_sizes(model.card, way.profile)],
        precision=way.precision,
        target=way.target,
    )
    return onnx_from_checkpoint(model.weights, folder, options)[0]


def shipped_graph(
    model: ModelVariant, way: ModelWay, folder: Path, *, any_form: bool = False
) -> Optional[Path]:
    """Return the shipped FP32 graph of a model; None if there is none that fits it and the way.

    any_form: also one in another form than that of the way's target. One that was made for another
    target is copied to a folder with a manifest for the way.
    """
    for path in shipped_graphs().glob(f"{model.name}.*.onnx"):
        with contextlib.suppress(ArtifactError, TargetError):
            manifest = read_manifest(path)
            if not _fits(manifest, model, way, any_form):
                continue
            if (manifest.target, manifest.precision_asked) == (way.target, way.precision):
                return path
            versions = {**manifest.versions, "profile": way.profile.digest}
            made_for = replace(manifest, target=way.target, precision_asked=way.precision)
            copy = folder / path.name
            write_bytes(copy, path.read_bytes())
            write_text(manifest_path(copy), to_json(replace(made_for, versions=versions)))
            return copy
    return None


def _fits(manifest: Manifest, model: ModelVariant, way: ModelWay, any_form: bool) -> bool:
    """Return whether a shipped graph is of a model, and what an export for a way would be.

    any_form: but for its form, which decides the time alone.
    """
    made_of = manifest.parent_sha256, manifest.versions.get("card"), manifest.variant
    if made_of != (model.card.weights_sha256, model.card.digest, model.variant):
        return False
    made_for, wanted = load_target(manifest.target), way.profile
    if manifest.versions.get("profile") != made_for.digest or way.precision == "int8":
        return False
    forms = [_forms_of(profile, model.card.arch) for profile in (made_for, wanted)]
    sizes = parse_sizes(_sizes(model.card, wanted))
    as_made = manifest.min_shape, manifest.max_shape, made_for.opset, manifest.graph_dtype
    as_wanted = sizes.min, sizes.max, wanted.opset, wanted.graph_dtype(way.precision)
    return as_made == as_wanted and (any_form or forms[0] == forms[1])


def _forms_of(profile: TargetProfile, arch: str) -> Dict[str, str]:
    return {key: form for key, form in profile.forms.items() if key.split(".")[0] == arch}


def _sizes(card: ModelSpec, target: TargetProfile) -> str:
    """Return the LR sizes of a graph: all that the network takes, unless the builder needs less."""
    n, (h, w) = card.multiple, up_to_multiple(card.min_hw, card.multiple)
    most = _MOST_TENSORRT_PX if target.runtime in BUILDERS else _MOST_PX
    opt, most = _OPT_PX + -_OPT_PX % n, most - most % n
    return f"{h}x{w}:{max(opt, h)}x{max(opt, w)}:{most}x{most}"


def _entry(model: ModelVariant, way: ModelWay) -> Path:
    versions = dict(BACKENDS[way.runtime]().versions()) if way.builds else {}
    if way.runtime == "tensorrt":  # its engines are for one kind of GPU
        versions["gpu"] = cuda().gpu_name()
    key = key_of(
        model.card.weights_sha256,
        model.card.digest,
        way.profile.digest,
        way.precision,
        _sizes(model.card, way.profile),
        sorted(versions.items()),
        __version__,
        code_digest(),
    )
    return cache_folder() / "models" / f"{model.name}.{way.runtime}.{way.precision}.{key}"


@functools.lru_cache(maxsize=None)
def code_digest() -> str:
    """Return a checksum of the code that decides what an export of a checkpoint contains."""
    rooms = (_PACKAGE / "nets", _PACKAGE / "export")
    return key_of(*(sha256_of(path) for room in rooms for path in sorted(room.rglob("*.py"))))


def _remove_unused(folder: Path) -> None:
    oldest = time.time() - _UNUSED_DAYS * 86400
    for entry in filter(lambda path: _ENTRY.fullmatch(path.name), folder.iterdir()):
        with contextlib.suppress(OSError):
            if entry.stat().st_mtime < oldest:
                shutil.rmtree(str(entry))
