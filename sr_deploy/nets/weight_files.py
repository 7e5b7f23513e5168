"""Reading state dicts from files of anyone's: tensors only, no code is executed."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from sr_deploy.core.errors import CheckpointError, InputError, first_line
from sr_deploy.core.files import foreign_file
from sr_deploy.nets.checkpoint import read_safetensors

_WRAPPERS = (
    *("params_ema", "params-ema", "model_ema", "state_dict_ema", "ema_state_dict", "ema", "params"),
    *("state_dict", "model_state_dict", "model", "net", "network", "generator", "net_g", "netG"),
    *("gen", "g", "weights"),
)
"""Keys under which training code stores the state dict; the first in a file counts."""

_PARALLEL = ("module.", "_orig_mod.")
"""Prefixes of DataParallel and torch.compile."""

_TRAINING_ONLY = re.compile(
    r"(net_?d|discriminator|disc|d|.*loss.*|criterion|perceptual|vgg|lpips|.*metrics?|teacher)\."
)
"""Prefixes of what training code stores beside the network."""

_SCALAR: Any = np.float64(0).__reduce__()[0]
_NUMBERS: List[Any] = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]
"""What a pickled NumPy number consists of, before and since NumPy 2."""


def read_weights(file: Path) -> Dict[str, Tensor]:
    """Read a flat state dict from a .pth/.pt/.ckpt pickle or a safetensors file.

    Floating-point tensors become FP32. Only tensors and numbers are read from a pickle, and no code
    is executed. A dict under params_ema, params, state_dict and the like is unwrapped, and the
    prefixes `module.` and `_orig_mod.` are removed. Raises InputError or CheckpointError.
    """
    if not file.is_file():
        raise InputError(f"there is no file {file}")
    with file.open("rb") as stream:
        begin = stream.read(64)
    if (
        file.suffix.lower() == ".safetensors" or begin[8:9] == b"{"
    ):  # the header's length, then JSON
        content: Any = read_safetensors(file)
    else:
        content = _read_pickle(file)
    weights = _state_dict_in(content, str(file))
    for prefix in _PARALLEL * 2:  # in any order
        weights = _without(prefix, weights) or weights
    return {
        name: value.detach().float() if value.is_floating_point() else value.detach()
        for name, value in weights.items()
    }


def candidates(weights: Dict[str, Tensor]) -> Iterator[Tuple[str, Dict[str, Tensor]]]:
    """Yield the tensors that may be a network's state dict, each with its prefix in the file.

    First all tensors, then those under each common prefix (`model.`, `net_g.generator.`). Tensors
    of discriminators and losses beside it are left out.
    """
    yield "", weights
    prefix, part = "", weights
    networks = {n: v for n, v in weights.items() if not _TRAINING_ONLY.match(n)}
    if networks and len(networks) < len(weights):
        part = networks
        yield "", part
    while part:
        first = next(iter(part)).partition(".")[0] + "."
        inner = _without(first, part)
        if inner is None:
            return
        prefix, part = prefix + first, inner
        yield prefix, part


def _read_pickle(file: Path) -> Any:
    """Load a pickle's tensors and numbers. Raises CheckpointError."""
    try:
        with torch.serialization.safe_globals(_NUMBERS):
            return torch.load(file, weights_only=True, map_location="cpu")
    except Exception as e:  # many kinds: unpickling, zip, end of file, runtime
        text = str(e)
        hint = "truncated files and pickles with code are refused: save model.state_dict()"
        foreign = re.search(r"Unsupported global: GLOBAL (\S+)", text)
        kind, remedy = foreign_file(file)
        if kind:
            reason, hint = kind, remedy
        elif "TorchScript" in text:
            reason = "it is a TorchScript archive, which contains code"
            hint = "save the state dict: torch.save(torch.jit.load(FILE).state_dict(), OTHER)"
        elif "legacy .tar format" in text:
            reason = "it was written by torch before 0.1.10"
            hint = "save its state dict again, with a newer torch"
        elif foreign is not None:
            reason = f"it contains more than tensors: {foreign[1]}"
        elif isinstance(e, pickle.UnpicklingError):  # torch recommends to execute the file
            reason = "it is damaged, or contains more than tensors, such as code"
        else:
            reason = first_line(e)
        raise CheckpointError(f"{file} cannot be read as weights: {reason}", hint=hint) from e


def _state_dict_in(content: Any, source: str) -> Dict[str, Tensor]:
    """Return the state dict in what a file holds. Raises CheckpointError unless there is one."""
    found = _flat(content)
    if found is not None:
        return found
    if isinstance(content, dict):
        inner = {k: v for k, v in content.items() if isinstance(v, dict)}
        for key in _WRAPPERS:
            if key in inner and _holds_tensors(inner[key]):
                return _state_dict_in(inner[key], f"'{key}' in {source}")
        holding = [key for key, value in inner.items() if _holds_tensors(value)]
        if len(holding) == 1:
            return _state_dict_in(inner[holding[0]], f"'{holding[0]}' in {source}")
        if holding:
            raise CheckpointError(
                f"{source} contains several state dicts: {', '.join(map(str, holding))}",
                hint="save one of them to a file of its own",
            )
    raise CheckpointError(
        f"{source} does not contain a state dict (a mapping of names to dense tensors)",
        hint="save model.state_dict()",
    )


def _flat(value: Any) -> Optional[Dict[str, Tensor]]:
    """Return a mapping of names to dense tensors; numbers in it become tensors. None: no such."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return None
    weights: Dict[str, Tensor] = {}
    for name, item in value.items():
        if isinstance(item, (bool, int, float)):
            item = torch.tensor(item)
        if not _is_dense(item):
            return None
        weights[name] = item
    return weights if any(isinstance(item, Tensor) for item in value.values()) else None


def _is_dense(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and not (value.is_meta or value.is_complex() or value.is_quantized)
    )


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, dict) and (
        _flat(value) is not None or any(_holds_tensors(v) for v in value.values())
    )


def _without(prefix: str, weights: Dict[str, Tensor]) -> Optional[Dict[str, Tensor]]:
    """Return the tensors with a prefix removed; None if not all have it, or a name is that."""
    if not all(name.startswith(prefix) and len(name) > len(prefix) for name in weights):
        return None
    return {name[len(prefix) :]: value for name, value in weights.items()}
