"""Networks from a user's own Python code: `mynet.py:Net`, `package.module:Class`.

The code is run, as the user asks by naming it. A network is a `torch.nn.Module`, (1, 3, H, W) to
(1, 3, scale*H, scale*W) float, RGB in 0..1 (or 0..`value_range`). One with the methods `variants()`
(names, smallest first) and `slice(variant)` (the static module) is elastic.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import importlib
import inspect
import os
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

import torch
from torch import Tensor, nn

from sr_deploy.core.errors import InputError, SrDeployError, VariantError, did_you_mean
from sr_deploy.core.network_code import SCALE_PARAMETERS, NetworkCode
from sr_deploy.core.spec import Variant, listed_variants, named_by_scale
from sr_deploy.nets.checkpoint import check_finite, check_state_dict
from sr_deploy.nets.code_files import code_files, defined_names, package_root
from sr_deploy.nets.weight_files import read_weights


@dataclass(frozen=True, eq=False)
class CodeNetwork:
    """A network made by a user's code, with its weights."""

    code: NetworkCode
    module: nn.Module = field(repr=False)
    """As the code made it, in eval mode on the CPU in FP32; of an elastic one, the whole."""
    files: Tuple[Path, ...] = ()
    """The source files that it was made from."""
    source_sha256: str = ""
    """Of the source files; of a module without, of its structure."""
    fits: Dict[str, Any] = field(default_factory=dict, repr=False)
    """The scale and sizes of its variants, as far as they were measured."""
    fields: Dict[str, Any] = field(default_factory=dict, repr=False)
    """The receptive fields of its variants, as far as they were measured."""

    @property
    def label(self) -> str:
        return self.code.label

    def name(self, scale: int) -> str:
        """Return the beginning of the names of its artifacts: that of the weights, or its own."""
        stem = Path(self.code.weights).stem if self.code.weights else self.code.attribute
        return named_by_scale(stem, scale)

    def identity(self, variant: str) -> str:
        """Return what decides the output of a variant."""
        return " ".join(
            ("code", self.weights_sha256, self.source_sha256, f"{self.code.value_range:g}", variant)
        )

    @functools.cached_property
    def weights_sha256(self) -> str:
        """A checksum of the names, types and values of its tensors."""
        return tensors_sha256(self.module.state_dict())

    @functools.cached_property
    def variants(self) -> Tuple[str, ...]:
        """Its variants, smallest first; of a network without, the empty text.

        Raises InputError if `variants()` returns no list of names such as `d3`.
        """
        if not is_elastic(self.module):
            return ("",)
        with self.running("its variants()"):
            names: Any = list(self.module.variants())  # type: ignore[operator]
        bad = [name for name in names if not isinstance(name, str) or not _is_variant(name)]
        if not names or bad or len(set(names)) < len(names):
            raise InputError(
                f"{self.label}: variants() returns {names}; expected different names of a letter "
                "and a size, such as ['d1', 'd3']"
            )
        return tuple(names)

    def chosen(self, names: Any) -> List[str]:
        """Return the variants of a list or a comma-separated text; all for None or `all`.

        Raises VariantError for an unknown one.
        """
        chosen = listed_variants(names)
        if chosen is None:
            return list(self.variants)
        for name in chosen:
            if name not in self.variants:
                known = ", ".join(self.variants) or "no variants"
                raise VariantError(
                    f"{self.label} has no variant '{name}'; it has {known}",
                    hint=did_you_mean(name, self.variants)
                    or "a module with variants() and slice(variant) has variants",
                )
        return chosen

    def network(self, variant: str = "") -> nn.Module:
        """Return the static network of a variant: a copy, 0..1 in and out, in eval mode.

        Raises InputError if `slice(variant)` fails or returns something else than a module.
        """
        net = self.module
        if variant:
            with self.running(f"its slice('{variant}')"):
                net = net.slice(variant)  # type: ignore[operator]
            if not isinstance(net, nn.Module):
                raise InputError(
                    f"{self.label}: slice('{variant}') returns {_kind(net)}; "
                    "expected a torch.nn.Module"
                )
        with self.running("copying it"):
            net = _plain(copy.deepcopy(net) if net is self.module else net)
        value_range = self.code.value_range
        return net if value_range == 1 else ValueRange(net, value_range).eval()

    @contextlib.contextmanager
    def running(self, doing: str) -> Iterator[None]:
        """Turn what the user's code raises into an InputError with its line."""
        with code_errors(f"{self.label}: {doing} failed", self.files):
            yield


class ValueRange(nn.Module):
    """A network of 0..value_range as one of 0..1."""

    def __init__(self, net: nn.Module, value_range: float) -> None:
        super().__init__()
        self.net, self.value_range = net, value_range

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x * self.value_range) / self.value_range


def is_elastic(module: nn.Module) -> bool:
    """Return whether a module has the methods of an elastic network."""
    return all(callable(getattr(module, name, None)) for name in ("variants", "slice"))


def tensors_sha256(tensors: Dict[str, Tensor]) -> str:
    """Return a checksum of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        if isinstance(value, Tensor):
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def network_from_module(module: nn.Module, name: str, scale: Optional[int]) -> CodeNetwork:
    """Return a module of the caller as a network; a copy, so that the caller may train on.

    Raises InputError for something else than a module.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"expected a torch.nn.Module, got {_kind(module)}")
    code = NetworkCode("", name or type(module).__name__, scale=scale)
    with code_errors(f"{code.label} cannot be used", ()):
        copied = _plain(copy.deepcopy(module))
    digest = hashlib.sha256(repr(module).encode()).hexdigest()
    return CodeNetwork(code, copied, source_sha256=digest)


_LOADED: Dict[Tuple[str, str], Tuple[tuple, CodeNetwork]] = {}
"""By text and working folder: the state of the files, and the network that they made."""


def load_code(code: NetworkCode) -> CodeNetwork:
    """Run a network's code and load its weights. Unchanged files are run once in a process.

    Without weights, random ones are the same every time. Raises InputError for code that fails,
    with the line, and CheckpointError for weights of another network.
    """
    key = (str(code), os.getcwd())
    if key in _LOADED:
        state, network = _LOADED[key]
        if state == _file_state(code, network.files):
            return network
    with _process_state_kept():
        attribute, files = _import(code)
        with code_errors(f"{code.label} cannot be made", files):
            module = _make(code, attribute)
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
        if code.weights:
            weights = read_weights(Path(code.weights))
            check_finite(weights, source=code.weights)
            check_state_dict(module, weights, source=code.weights)
            module.load_state_dict(weights)
        with code_errors(f"{code.label} cannot be used", files):
            module = _plain(module)
    network = CodeNetwork(code, module, files, _sources_sha256(files))
    _LOADED[key] = _file_state(code, files), network
    return network


@contextlib.contextmanager
def code_errors(what: str, files: Tuple[Path, ...]) -> Iterator[None]:
    """Turn what a user's code raises, or that it exits, into an InputError with its line.

    what: the beginning of the message. files: the user's sources.
    """
    try:
        yield
    except SrDeployError:
        raise
    except (Exception, SystemExit) as e:
        line, hint = _line_of(e, files), ""
        if isinstance(e, SystemExit):
            reason = f"it exits{_code(e)}"
            hint = 'put what a script does under: if __name__ == "__main__":'
        elif isinstance(e, ModuleNotFoundError) and e.name:
            reason = f"there is no module '{e.name}'"
            hint = f"if it is a package, pip install {e.name.split('.')[0]}"
        elif isinstance(e, RecursionError):
            reason = "it calls itself without an end"
        else:
            reason = f"{type(e).__name__}: {_first_line(e)}" if _first_line(e) else _kind(e)
        raise InputError(f"{what}: {reason}{line}", hint=hint) from e


def _make(code: NetworkCode, attribute: Any) -> nn.Module:
    """Return the network that a class or a function makes, or that `attribute` is."""
    made = attribute
    if isinstance(attribute, type) or not isinstance(attribute, nn.Module):
        if not callable(attribute):
            raise InputError(
                f"{code.label} is {_kind(attribute)}; "
                "expected a class or a function that makes a torch.nn.Module, or a module"
            )
        made = attribute(**_arguments(code, attribute))
    if not isinstance(made, nn.Module):
        raise InputError(f"{code.label} makes {_kind(made)}; expected a torch.nn.Module")
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in made.parameters()):
        raise InputError(
            f"{code.label} has lazy layers, whose shapes are unknown before a first run",
            hint="give the layers their numbers of channels",
        )
    return made


def _arguments(code: NetworkCode, maker: Any) -> Dict[str, int]:
    """Return the scale by its parameter's name. Raises InputError if there are other parameters."""
    try:
        parameters = dict(inspect.signature(maker).parameters)
    except (TypeError, ValueError):  # of a compiled class: the call tells
        return {}
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [n for n, p in parameters.items() if p.default is p.empty and p.kind not in kinds]
    scales = [n for n in SCALE_PARAMETERS if n in parameters]
    others = [n for n in needed if n not in scales]
    if others:
        call = ", ".join(f"{name}=..." for name in needed)
        raise InputError(
            f"{code.label} needs {', '.join(others)}: a network is made without arguments, "
            f"or with {SCALE_PARAMETERS[0]} alone",
            hint=f"write a function that makes it, and name that: "
            f"def net(): return {code.attribute}({call})",
        )
    if scales and code.scale is None and set(scales) & set(needed):
        raise InputError(f"{code.label} needs its {scales[0]}", hint="give --scale 4, for example")
    return {name: code.scale for name in scales[:1] if code.scale is not None}


def _plain(module: nn.Module) -> nn.Module:
    """Return a module on the CPU in FP32, in eval mode, with all its tensors as buffers.

    Tensors that are plain attributes would stay behind when the module moves to a device.
    """
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if isinstance(value, Tensor) and name.isidentifier():
                delattr(part, name)
                part.register_buffer(name, value.detach(), persistent=False)
    return module.to("cpu").float().eval().requires_grad_(False)


def _import(code: NetworkCode) -> Tuple[Any, Tuple[Path, ...]]:
    """Import the file or module; return what the code names, and the source files."""
    if not code.attribute:
        names = defined_names(Path(code.source)) if Path(code.source).is_file() else []
        raise InputError(
            f"'{code.source}' names no network; expected {code.source}:NAME",
            hint=f"it defines {', '.join(names)}" if names else "",
        )
    module = _module_of_file(code) if code.is_file else _module_of_name(code)
    origin = getattr(module, "__file__", None)
    files = code_files(Path(origin)) if origin else ()
    if not hasattr(module, code.attribute):
        names = [name for name, value in vars(module).items() if _is_candidate(value, module)]
        raise InputError(
            f"{code.source} has no '{code.attribute}'; it has {', '.join(names) or 'no network'}",
            hint=did_you_mean(code.attribute, names),
        )
    return getattr(module, code.attribute), files


def _module_of_name(code: NetworkCode) -> types.ModuleType:
    """Import a module as `python -m` does, which looks in the working folder first."""
    with _first_on_path(Path.cwd()), code_errors(f"{code.source} cannot be imported", ()):
        importlib.invalidate_caches()
        return importlib.import_module(code.source)


_OWN_MODULES: Set[str] = set()
"""The names of the modules beside users' files that were imported for them."""


def _module_of_file(code: NetworkCode) -> types.ModuleType:
    """Run a file as a module, with its folder first on the path as for a script.

    A file in a package is imported as a module of it. Modules beside it are imported anew, since
    another folder may have others of the same names.
    """
    path = Path(code.source).resolve()
    if not path.is_file():
        raise InputError(f"there is no file {code.source}")
    files = code_files(path)
    for name in _OWN_MODULES:
        sys.modules.pop(name, None)
    _OWN_MODULES.clear()
    before = set(sys.modules)
    root = package_root(path)
    importlib.invalidate_caches()
    try:
        with _first_on_path(root), code_errors(f"{code.source} cannot be imported", files):
            if root != path.parent:
                dotted = ".".join(path.relative_to(root).with_suffix("").parts)
                return importlib.import_module(dotted)
            return _executed(path)
    finally:
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None)
            if origin and Path(origin).resolve() in files:
                _OWN_MODULES.add(name)


def _executed(path: Path) -> types.ModuleType:
    """Execute a file under a name that no other module has."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    name = f"srdeploy_code_{digest}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    """Put a folder first on Python's path, and last afterwards, for imports inside functions."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)
        if entry not in sys.path:
            sys.path.append(entry)


@contextlib.contextmanager
def _process_state_kept() -> Iterator[None]:
    """Restore what code may change for the whole process.

    It gets the arguments of a script, and random numbers that are the same every time.
    """
    state = [
        (os.getcwd(), os.chdir),
        (torch.get_default_dtype(), torch.set_default_dtype),
        (torch.get_num_threads(), torch.set_num_threads),
        (torch.is_grad_enabled(), torch.set_grad_enabled),
    ]
    device, arguments = torch.get_default_device(), sys.argv
    sys.argv = arguments[:1]
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        sys.argv = arguments
        for value, restore in state:
            restore(value)  # type: ignore[operator]
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)


def _file_state(code: NetworkCode, files: Tuple[Path, ...]) -> tuple:
    """Return times and sizes of the sources and the weights."""
    paths = [*files, *([Path(code.weights)] if code.weights else [])]
    stats = [path.stat() if path.exists() else None for path in paths]
    return tuple((s.st_mtime_ns, s.st_size) if s else None for s in stats)


def _sources_sha256(files: Tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _is_variant(name: str) -> bool:
    try:
        return bool(str(Variant.parse(name)))
    except VariantError:
        return False


def _is_candidate(value: Any, module: types.ModuleType) -> bool:
    """Return whether a name of a module may be a network: a module, its class, a function."""
    if isinstance(value, nn.Module):
        return True
    own = getattr(value, "__module__", None) == module.__name__
    return own and (inspect.isfunction(value) or inspect.isclass(value))


def _line_of(e: BaseException, files: Tuple[Path, ...]) -> str:
    """Return the last line of the user's files that an exception passed, as ` (net.py, line 3)`."""
    if isinstance(e, SyntaxError) and e.filename:
        return f" ({Path(e.filename).name}, line {e.lineno})"
    found, frame = "", e.__traceback__
    while frame is not None:
        path = Path(frame.tb_frame.f_code.co_filename)
        if path in files or path.resolve() in files:
            found = f" ({path.name}, line {frame.tb_lineno})"
        frame = frame.tb_next
    return found


def _first_line(e: BaseException) -> str:
    text = e.msg if isinstance(e, SyntaxError) else str(e)
    return (text.strip().splitlines() or [""])[0][:300]


def _code(e: SystemExit) -> str:
    return "" if e.code is None else f" with {str(e.code)[:100]}"


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"
