"""Weights from elsewhere: official pickles, read with `weights_only`, and a user's own state dict."""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Optional, Tuple

import torch
from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError, InputError, did_you_mean
from sr_deploy.core.files import make_output_folder
from sr_deploy.core.shipped import CHECKPOINT_SUFFIX
from sr_deploy.core.spec import Variant
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.architecture import Architecture
from sr_deploy.nets.checkpoint import (
    Checkpoint,
    check_finite,
    check_state_dict,
    is_weights,
    read_safetensors,
    save_checkpoint,
    untrained,
)


@dataclass(frozen=True)
class Importer:
    """An official file: how its tensors become ours, and what its card says."""

    arch: str
    convert: Callable[[dict], dict]
    value_range: float
    licence: str
    trained_on: str
    notes: str


def checkpoint_from_file(
    kind: str,
    file: Path,
    folder: Path,
    *,
    variant: Optional[str] = None,
    name: Optional[str] = None,
    elastic: bool = False,
    value_range: float = 1.0,
) -> Checkpoint:
    """Bring a state dict in, write it to `folder` as safetensors with a card, and return it.

    kind: an official importer (`imdeception-ntire2022`, `srn-ntire2023`), an architecture (`asrn`: the scale is then the
    one whose shapes fit), or architecture and scale (`asrn_x3`), for state dicts with our tensor names. elastic: the weights
    were trained to be sliced; without it the checkpoint holds the one variant it was made for. value_range: the network was
    trained on 0..value_range instead of 0..1; official importers know their own.
    Raises InputError (unknown kind, missing file) or CheckpointError (unsafe, damaged, or of another network).
    """
    weights = read_weights(file)
    check_finite(weights, source=str(file))
    if kind in IMPORTERS:
        if elastic or value_range != 1.0:
            raise InputError(
                f"'{kind}' knows its value range and that it is not elastic",
                hint="leave --elastic and --value-range out",
            )
        importer = IMPORTERS[kind]
        architecture, scales = ARCHITECTURES[importer.arch], ARCHITECTURES[importer.arch].scales
        weights, value_range = importer.convert(weights), importer.value_range
        card = {
            "licence": importer.licence,
            "trained_on": importer.trained_on,
            "notes": importer.notes,
        }
    else:
        architecture, scales = _architecture(kind)
        card = {"notes": f"imported from {file.name}"}
    held = architecture.size_of(weights) if variant is None else architecture.parse(variant)
    if elastic and len(architecture.points(held)) == 1:
        raise InputError(
            f"{architecture.name} {held} cannot be sliced into smaller variants",
            hint="leave --elastic out",
        )
    config = architecture.config_of(weights)
    scale = _fitting_scale(architecture, scales, held, config, weights, source=str(file))
    weights = fold_value_range(weights, architecture.build(scale, held, config), value_range)
    spec = architecture.spec(scale, held, elastic=elastic, config=config, **card)
    if name is None:
        stem = kind if kind in IMPORTERS else re.sub(r"[^A-Za-z0-9_-]+", "-", file.stem)
        name = stem if stem.endswith(f"_x{scale}") else f"{stem}_x{scale}"
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise InputError(f"'{name}' is no name for a checkpoint; expected letters, digits, - and _")
    checkpoint = Checkpoint(name, spec, weights)
    checkpoint.network()  # builds and loads it: what is written can be used
    target = make_output_folder(folder) / (name + CHECKPOINT_SUFFIX)
    if target.exists():
        raise InputError(
            f"{target} exists already", hint="give another folder, or another name with --name"
        )
    return Checkpoint(name, spec, weights, save_checkpoint(folder, name, spec, weights))


def read_weights(file: Path) -> Dict[str, Tensor]:
    """Read a flat state dict from a .pth/.pt pickle (weights only, nothing in it is executed) or a safetensors file.

    A dict nested under params_ema, params, state_dict or model is unwrapped, and a common `module.` prefix removed.
    Raises InputError or CheckpointError.
    """
    if not file.is_file():
        raise InputError(f"there is no file {file}")
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    try:
        content = torch.load(file, weights_only=True, map_location="cpu")
    except Exception as e:  # torch raises many kinds here: unpickling, zip, end of file, runtime
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        if isinstance(e, pickle.UnpicklingError):  # torch's own words recommend to execute the file
            reason = "it is damaged, or it holds more than tensors, such as code"
        raise CheckpointError(
            f"{file} cannot be read as weights: {reason}",
            hint="only tensors are read: a file that is cut off, or a pickle that holds code, is refused. Save model.state_dict()",
        ) from e
    for key in ("params_ema", "params", "state_dict", "model"):
        if isinstance(content, dict) and is_weights(content.get(key)):
            content = content[key]
            break
    if not is_weights(content):
        raise CheckpointError(
            f"{file} holds no state dict (a mapping of names to tensors)",
            hint="save model.state_dict()",
        )
    if all(k.startswith("module.") for k in content):
        content = {k[len("module.") :]: v for k, v in content.items()}
    return {k: v.detach().float() for k, v in content.items()}


def fold_value_range(weights: dict, net: nn.Module, value_range: float) -> dict:
    """Return the weights of the same function on 0..1 instead of 0..value_range: first and last convolution of `net` scaled."""
    if value_range == 1.0:
        return weights
    convs = [
        name
        for name, module in net.named_modules()
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
    ]
    first, last = convs[0], convs[-1]
    scaled = {
        f"{first}.weight": value_range,
        f"{last}.weight": 1 / value_range,
        f"{last}.bias": 1 / value_range,
    }
    return {
        k: (v.double() * scaled[k]).to(v.dtype) if k in scaled else v for k, v in weights.items()
    }


def _imdeception_ntire2022(weights: dict) -> dict:
    """The public code's names; its grouped convolutions, four separate ones each, are joined."""
    out: Dict[str, Tensor] = {}
    grouped: Dict[str, Dict[int, Tensor]] = {}
    for name, value in weights.items():
        new = _rename(
            name,
            (
                (r"feat_conv0\.", "features."),
                (
                    r"self_attention([12])\.conv_phi_theta_g\.",
                    lambda m: f"nla.{2 * int(m[1]) - 1}.qkv.",
                ),
                (r"self_attention([12])\.conv_out\.", lambda m: f"nla.{2 * int(m[1]) - 1}.out."),
                (r"block(\d)(?:_shal)?\.conv_fuse0\.", lambda m: f"blocks.{int(m[1]) - 1}.fuse."),
                (
                    r"block(\d)(?:_shal)?\.conv(\d)(?:_shal)?\.conv([01])\.",
                    lambda m: f"blocks.{int(m[1]) - 1}.g{int(m[2]) + 1}.{2 * int(m[3])}.",
                ),
                (r"conv_fuse0\.", "fuse."),
                (r"conv_fuse1\.", "expand."),
                (r"conv_out\.", "to_rgb.0."),
            ),
        )
        part = re.fullmatch(r"(.+\.)conv2d_block\.(\d)\.(weight|bias)", new)
        if part is None:
            out[new] = value
        else:
            grouped.setdefault(part[1] + part[3], {})[int(part[2])] = value
    for name, parts in grouped.items():
        out[name] = torch.cat([parts[i] for i in sorted(parts)])
    return out


def _srn_ntire2023(weights: dict) -> dict:
    rules = (
        (r"recon_trunk\.(\d+)\.ESA\.", lambda m: f"blocks.{m[1]}.esa."),
        (r"recon_trunk\.(\d+)\.", lambda m: f"blocks.{m[1]}."),
        (r"tail\.", "tail.0."),
    )
    return {_rename(name, rules): value for name, value in weights.items()}


def _rename(name: str, rules: tuple) -> str:
    for pattern, replacement in rules:
        new, count = re.subn(r"\A" + pattern, replacement, name)
        if count:
            return new
    return name


def _architecture(kind: str) -> Tuple[Architecture, Tuple[int, ...]]:
    if kind in ARCHITECTURES:
        return ARCHITECTURES[kind], ARCHITECTURES[kind].scales
    bare = untrained(kind)
    if bare is None:
        known = [*IMPORTERS, *ARCHITECTURES]
        raise InputError(
            f"unknown kind of checkpoint '{kind}'; known are {', '.join(known)}, and architectures with a scale (asrn_x4)",
            hint=did_you_mean(kind, known),
        )
    return bare.architecture, (bare.scale,)


def _fitting_scale(
    architecture: Architecture,
    scales: Tuple[int, ...],
    held: Variant,
    config: dict,
    weights: dict,
    *,
    source: str,
) -> int:
    """The one scale whose network has exactly these names and shapes; the error is that of the largest scale."""
    fitting = []
    for scale in scales:
        try:
            with torch.device("meta"):
                check_state_dict(architecture.build(scale, held, config), weights, source=source)
            fitting.append(scale)
        except CheckpointError as e:
            error = e
    if len(fitting) > 1:  # FSRCNN's tensors have the same shapes at every scale
        raise InputError(
            f"{source} fits {architecture.name} at {', '.join(f'x{s}' for s in fitting)} alike",
            hint=f"say which: {architecture.name}_x{fitting[-1]}",
        )
    if fitting:
        return fitting[0]
    raise CheckpointError(
        error.message,
        hint=error.hint
        or f"the tensors must be named and shaped as {architecture.name}'s here are",
    )


IMPORTERS: Dict[str, Importer] = {
    "imdeception-ntire2022": Importer(
        arch="imdeception",
        convert=_imdeception_ntire2022,
        value_range=1.0,
        licence="MIT",
        trained_on="DF2K, by its authors",
        notes="official NTIRE 2022 efficient super-resolution entry (team 19): core 16 with attention, one core only",
    ),
    "srn-ntire2023": Importer(
        arch="srn-s",
        convert=_srn_ntire2023,
        value_range=255.0,
        licence="MIT",
        trained_on="DF2K and LSDIR, by its authors",
        notes="official NTIRE 2023 efficient super-resolution entry (team 25): 4 blocks; value range 0..255 folded in",
    ),
}
