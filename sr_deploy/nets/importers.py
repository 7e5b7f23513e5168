"""Import of weights: official pickles, and state dicts with our tensor names.

Pickles are read with `weights_only`.
"""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Tuple

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
    is_state_dict,
    parse_untrained,
    read_safetensors,
    save_checkpoint,
)


@dataclass(frozen=True)
class Importer:
    """An official file: the names of its tensors, its value range and its card."""

    arch: str
    names: Tuple[Tuple[str, str], ...]
    """Regular expressions for the beginnings of its tensors' names, and ours; the first counts."""
    value_range: float
    card: Mapping[str, str]
    factors: Mapping[str, float] = field(default_factory=dict)
    """What tensors, by our names, are multiplied by: the network scales its input itself."""


_SPAN_NAMES = (
    (r"conv_1\.eval_conv\.", "head."),
    *((rf"block_{b + 1}\.c([123])_r\.eval_conv\.", rf"blocks.{b}.conv\1.") for b in range(6)),
    (r"conv_2\.eval_conv\.", "last."),
    (r"conv_cat\.", "fuse."),
    (r"upsampler\.", "tail."),
)
"""Of its merged form, in the challenges' public code."""

IMPORTERS: Dict[str, Importer] = {
    "imdeception-ntire2022": Importer(
        arch="imdeception",
        names=(
            (r"feat_conv0\.", "features."),
            (r"self_attention1\.conv_phi_theta_g\.", "nla.1.qkv."),
            (r"self_attention1\.conv_out\.", "nla.1.out."),
            (r"self_attention2\.conv_phi_theta_g\.", "nla.3.qkv."),
            (r"self_attention2\.conv_out\.", "nla.3.out."),
            *((rf"block{i + 1}(_shal)?\.conv_fuse0\.", f"blocks.{i}.fuse.") for i in range(6)),
            *(
                (
                    rf"block{i + 1}(_shal)?\.conv{g}(_shal)?\.conv{layer}\.",
                    f"blocks.{i}.g{g + 1}.{2 * layer}.",
                )
                for i in range(6)
                for g in range(4)
                for layer in range(2)
            ),
            (r"conv_fuse0\.", "fuse."),
            (r"conv_fuse1\.", "expand."),
            (r"conv_out\.", "to_rgb.0."),
        ),
        value_range=1.0,
        card={
            "licence": "MIT",
            "trained_on": "DF2K, by its authors",
            "notes": "official NTIRE 2022 efficient super-resolution entry (team 19): "
            "core 16 with attention, one core only",
        },
    ),
    "srn-ntire2023": Importer(
        arch="srn-s",
        names=(
            (r"recon_trunk\.(\d+)\.ESA\.", r"blocks.\1.esa."),
            (r"recon_trunk\.(\d+)\.", r"blocks.\1."),
            (r"tail\.", "tail.0."),
        ),
        value_range=255.0,
        card={
            "licence": "MIT",
            "trained_on": "DF2K and LSDIR, by its authors",
            "notes": "official NTIRE 2023 efficient super-resolution entry (team 25): "
            "4 blocks; value range 0..255 folded in",
        },
    ),
    "rlfn-ntire2022": Importer(
        arch="rlfn",
        names=(
            (r"conv_1\.", "head."),
            *(
                name
                for i in range(6)
                for name in (
                    (rf"block_{i + 1}\.c([123])_r\.", rf"blocks.{i}.conv\1."),
                    (rf"block_{i + 1}\.c5\.", f"blocks.{i}.fuse."),
                    (rf"block_{i + 1}\.esa\.", f"blocks.{i}.esa."),
                )
            ),
            (r"conv_2\.", "last."),
            (r"upsampler\.", "tail."),
        ),
        value_range=255.0,
        card={
            "licence": "Apache-2.0",
            "trained_on": "DIV2K and Flickr2K, by its authors",
            "notes": "official NTIRE 2022 efficient super-resolution entry (ByteESR), the baseline "
            "of 2023 and 2024; value range 0..255 folded in",
        },
    ),
    "efdn-ntire2025": Importer(
        arch="efdn",
        names=(
            (r"cells\.(\d)\.conv1\.conv1x1\.", r"cells.\1.convs.0.0."),
            (r"cells\.(\d)\.conv2\.rep_conv\.", r"cells.\1.convs.1.0."),
            (r"cells\.(\d)\.conv3\.rep_conv\.", r"cells.\1.convs.2.0."),
            *((rf"cells\.(\d)\.conv{i + 1}\.act\.", rf"cells.\1.convs.{i}.1.") for i in range(3)),
            (r"cells\.(\d)\.branch\.", r"cells.\1.distil."),
            (r"cells\.(\d)\.att\.conv_max\.", r"cells.\1.esa.group.0."),
            (r"cells\.(\d)\.att\.conv3\.", r"cells.\1.esa.group.2."),
            (r"cells\.(\d)\.att\.conv3_\.", r"cells.\1.esa.group.4."),
            (r"cells\.(\d)\.att\.", r"cells.\1.esa."),
            (r"local_fuse\.", "fuse."),
        ),
        value_range=1.0,
        card={
            "licence": "MIT",
            "trained_on": "DIV2K and Flickr2K, by its authors",
            "notes": "official baseline of NTIRE 2025 efficient super-resolution, merged",
        },
    ),
    "span-ntire2026": Importer(
        arch="span",
        names=_SPAN_NAMES,
        value_range=1.0,
        card={
            "licence": "MIT",
            "trained_on": "DIV2K, Flickr2K and LSDIR, by its authors",
            "notes": "official baseline of NTIRE 2026 efficient super-resolution, merged; "
            "its factor of 255 folded in",
        },
        factors={"head.weight": 255.0},
    ),
    "spanv2-ntire2026": Importer(
        arch="spanv2",
        names=(
            *((rf"block_1\.c{i + 1}\.conv\.", f"first.{2 * i}.") for i in range(3)),
            *(
                (rf"block_{b}\.c{i + 1}\.conv\.", f"blocks.{b - 2}.convs.{2 * i}.")
                for b in range(2, 6)
                for i in range(3)
            ),
            *((rf"block_{b}\.guidance_map_conv\.", f"blocks.{b - 2}.guide.") for b in range(2, 6)),
            (r"conv_near\.", "near."),
            (r"depthwise_conv\.", "depthwise."),
            (r"pointwise_conv\.", "pointwise."),
        ),
        value_range=1.0,
        card={
            "licence": "MIT",
            "trained_on": "by its authors",
            "notes": "official NTIRE 2026 efficient super-resolution entry (team 22, XiaomiMM), "
            "merged",
        },
    ),
    "dscf-ntire2026": Importer(
        arch="dscf",
        names=(
            (r"conv_fused\.", "wide_head."),
            (r"conv_cat_other\.", "fuse."),
            (r"conv2_fused\.", "last."),
            *_SPAN_NAMES,
        ),
        value_range=1.0,
        card={
            "licence": "MIT",
            "trained_on": "by its authors",
            "notes": "official NTIRE 2026 efficient super-resolution entry (team 15, VARH-AI), "
            "merged; its factor of 255 folded in",
        },
        factors={"head.weight": 255.0, "wide_head.weight": 255.0},
    ),
}


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
    """Import a state dict, write it to `folder` as safetensors with a card, and return it.

    kind: an official importer (`imdeception-ntire2022`, `srn-ntire2023`), or for state dicts with
    our tensor names an architecture (`asrn`: the scale is the one that fits the shapes), or an
    architecture and a scale (`asrn_x3`). elastic: the weights were trained to be sliced; otherwise
    the checkpoint has one variant. value_range: the network was trained on 0..value_range instead
    of 0..1; official importers set their own.
    Raises InputError (unknown kind, missing file) or CheckpointError (unsafe, damaged, or of
    another network).
    """
    weights = read_weights(file)
    check_finite(weights, source=str(file))
    importer = IMPORTERS.get(kind)
    if importer is None:
        architecture, scales = _architecture(kind)
        card: Mapping[str, str] = {"notes": f"imported from {file.name}"}
    else:
        if elastic or value_range != 1.0:
            raise InputError(
                f"'{kind}' sets its own value range, and is not elastic",
                hint="omit --elastic and --value-range",
            )
        architecture = ARCHITECTURES[importer.arch]
        scales, card, value_range = architecture.scales, importer.card, importer.value_range
        weights = _scaled(_rename(weights, importer.names), importer.factors)
    size = architecture.size_of(weights) if variant is None else architecture.parse(variant)
    if elastic and len(architecture.points(size)) == 1:
        raise InputError(
            f"{architecture.name} {size} cannot be sliced into smaller variants",
            hint="omit --elastic",
        )
    config = architecture.config_of(weights)
    scale = _matching_scale(architecture, scales, size, weights, source=str(file))
    weights = fold_value_range(weights, architecture.build(scale, size, config), value_range)
    spec = architecture.spec(scale, size, elastic=elastic, config=config, **card)
    if name is None:
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", file.stem) if importer is None else kind
        name = stem if stem.endswith(f"_x{scale}") else f"{stem}_x{scale}"
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise InputError(f"invalid checkpoint name '{name}'; expected letters, digits, - and _")
    Checkpoint(name, spec, weights).network()  # the written file can be used
    target = make_output_folder(folder) / (name + CHECKPOINT_SUFFIX)
    if target.exists():
        raise InputError(
            f"{target} already exists", hint="use another folder, or another name with --name"
        )
    return Checkpoint(name, spec, weights, save_checkpoint(folder, name, spec, weights))


def read_weights(file: Path) -> Dict[str, Tensor]:
    """Read a flat state dict from a .pth/.pt pickle or a safetensors file.

    Only tensors are read from a pickle, and no code is executed. A dict under params_ema, params,
    state_dict or model is unwrapped, and a common prefix `module.` is removed. Raises InputError or
    CheckpointError.
    """
    if not file.is_file():
        raise InputError(f"there is no file {file}")
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    try:
        content = torch.load(file, weights_only=True, map_location="cpu")
    except Exception as e:  # many kinds: unpickling, zip, end of file, runtime
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        if isinstance(e, pickle.UnpicklingError):  # torch's message recommends to execute the file
            reason = "it is damaged, or contains more than tensors, such as code"
        raise CheckpointError(
            f"{file} cannot be read as weights: {reason}",
            hint="truncated files and pickles with code are refused: save model.state_dict()",
        ) from e
    for key in ("params_ema", "params", "state_dict", "model"):
        if isinstance(content, dict) and is_state_dict(content.get(key)):
            content = content[key]
            break
    if not is_state_dict(content):
        raise CheckpointError(
            f"{file} does not contain a state dict (a mapping of names to dense tensors)",
            hint="save model.state_dict()",
        )
    if all(k.startswith("module.") for k in content):
        content = {k[len("module.") :]: v for k, v in content.items()}
    return {k: v.detach().float() for k, v in content.items()}


def fold_value_range(weights: dict, net: nn.Module, value_range: float) -> dict:
    """Return the weights of the same function on 0..1 instead of 0..value_range.

    The first and the last convolution of `net` are scaled.
    """
    if value_range == 1.0:
        return weights
    convs = [n for n, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    factors = {
        f"{convs[0]}.weight": value_range,
        f"{convs[-1]}.weight": 1 / value_range,
        f"{convs[-1]}.bias": 1 / value_range,
    }
    return _scaled(weights, factors)


def _scaled(weights: Mapping[str, Tensor], factors: Mapping[str, float]) -> Dict[str, Tensor]:
    return {
        k: (v.double() * factors[k]).to(v.dtype) if k in factors else v for k, v in weights.items()
    }


def _rename(weights: Dict[str, Tensor], names: Tuple[Tuple[str, str], ...]) -> Dict[str, Tensor]:
    """Rename tensors, and join grouped convolutions stored as one convolution for each group."""
    renamed: Dict[str, Tensor] = {}
    grouped: Dict[str, List[Tuple[int, Tensor]]] = {}
    for name, value in weights.items():
        for pattern, replacement in names:
            new, matches = re.subn(r"\A" + pattern, replacement, name)
            if matches:
                name = new
                break
        part = re.fullmatch(r"(.+\.)conv2d_block\.(\d)\.(weight|bias)", name)
        if part is None:
            renamed[name] = value
        else:
            grouped.setdefault(part[1] + part[3], []).append((int(part[2]), value))
    for name, parts in grouped.items():
        renamed[name] = torch.cat([value for _, value in sorted(parts, key=lambda p: p[0])])
    return renamed


def _architecture(kind: str) -> Tuple[Architecture, Tuple[int, ...]]:
    """Return the architecture that a user named, and its possible scales."""
    if kind in ARCHITECTURES:
        return ARCHITECTURES[kind], ARCHITECTURES[kind].scales
    model = parse_untrained(kind)
    if model is None:
        known = [*IMPORTERS, *ARCHITECTURES]
        raise InputError(
            f"unknown kind of checkpoint '{kind}'; expected one of {', '.join(known)}, "
            "or an architecture with a scale (asrn_x4)",
            hint=did_you_mean(kind, known),
        )
    return model.architecture, (model.scale,)


def _matching_scale(
    architecture: Architecture,
    scales: Tuple[int, ...],
    size: Variant,
    weights: dict,
    *,
    source: str,
) -> int:
    """Return the only scale whose network has exactly these names and shapes."""
    config = architecture.config_of(weights)
    matching = []
    for scale in scales:
        try:
            with torch.device("meta"):
                check_state_dict(architecture.build(scale, size, config), weights, source=source)
            matching.append(scale)
        except CheckpointError as e:
            error = e
    if len(matching) > 1:  # FSRCNN's tensors have the same shapes at every scale
        raise InputError(
            f"{source} fits {architecture.name} at several scales: "
            f"{', '.join(f'x{s}' for s in matching)}",
            hint=f"name one, for example {architecture.name}_x{matching[-1]}",
        )
    if not matching:
        hint = error.hint or f"names and shapes of the tensors must be those of {architecture.name}"
        raise CheckpointError(error.message, hint=hint)
    return matching[0]
