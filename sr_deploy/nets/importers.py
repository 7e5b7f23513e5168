"""Import of weights: official files, our architectures, and what the package spandrel knows."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Tuple

import torch
from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError, InputError, SrDeployError, did_you_mean
from sr_deploy.core.files import make_output_folder
from sr_deploy.core.shipped import CHECKPOINT_SUFFIX
from sr_deploy.core.spec import Variant, named_by_scale
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.architecture import Architecture
from sr_deploy.nets.checkpoint import (
    Checkpoint,
    check_finite,
    check_state_dict,
    parse_untrained,
    save_checkpoint,
)
from sr_deploy.nets.spandrel import SPANDREL_ARCHITECTURE, model_from_weights
from sr_deploy.nets.weight_files import candidates, read_weights

SPANDREL = SPANDREL_ARCHITECTURE.name


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
                for i in range(4)
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
            "licence": "MIT",
            "trained_on": "by its authors",
            "notes": "official NTIRE 2022 efficient super-resolution entry (ByteESR), the baseline "
            "of 2024; value range 0..255 folded in",
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
            "trained_on": "by its authors",
            "notes": "official baseline of NTIRE 2025 efficient super-resolution, merged",
        },
    ),
    "span-ntire2026": Importer(
        arch="span",
        names=_SPAN_NAMES,
        value_range=1.0,
        card={
            "licence": "MIT",
            "trained_on": "by its authors",
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
    kind: Optional[str],
    file: Path,
    folder: Path,
    *,
    variant: Optional[str] = None,
    name: Optional[str] = None,
    elastic: bool = False,
    value_range: float = 1.0,
    card: Optional[Mapping[str, str]] = None,
) -> Checkpoint:
    """Import a state dict, write it to `folder` as safetensors with a card, and return it.

    kind: an official importer (`imdeception-ntire2022`, `srn-ntire2023`), or for state dicts with
    our tensor names an architecture (`asrn`: the scale is the one that fits the shapes), or an
    architecture and a scale (`asrn_x3`). None: the one that the tensors fit, else what the package
    spandrel recognises. elastic: the weights were trained to be sliced; otherwise the checkpoint
    has one variant. value_range: the network was trained on 0..value_range instead of 0..1;
    official importers set their own. card: further fields of the card, such as the licence.
    Raises InputError (unknown kind, missing file), CheckpointError (unsafe, damaged, or of
    another network) or MissingPackageError (spandrel).
    """
    weights = read_weights(file)
    check_finite(weights, source=str(file))
    options = _Options(variant, elastic, value_range, card or {})
    note = ""
    if kind is None:
        kind, weights, note = _recognised(weights, file)
    if kind == SPANDREL:
        checkpoint = _from_spandrel(weights, file, note, options)
    else:
        checkpoint = _from_kind(kind, weights, file, note, options)
    name = name or checkpoint.name
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise InputError(f"invalid checkpoint name '{name}'; expected letters, digits, - and _")
    checkpoint = replace(checkpoint, name=name)
    checkpoint.network()  # the written file can be used
    target = make_output_folder(folder) / (name + CHECKPOINT_SUFFIX)
    if target.exists():
        raise InputError(
            f"{target} already exists", hint="use another folder, or another name with --name"
        )
    path = save_checkpoint(folder, name, checkpoint.spec, checkpoint.weights)
    return replace(checkpoint, path=path)


@dataclass(frozen=True)
class _Options:
    """The options of an import."""

    variant: Optional[str]
    elastic: bool
    value_range: float
    card: Mapping[str, str]


def _from_kind(
    kind: str, weights: Dict[str, Tensor], file: Path, note: str, options: _Options
) -> Checkpoint:
    """Return the checkpoint of a named kind, not yet written."""
    importer = IMPORTERS.get(kind)
    elastic, value_range = options.elastic, options.value_range
    if importer is None:
        architecture, scales = _architecture(kind)
        card: Mapping[str, str] = {"notes": f"imported from {file.name}{note}"}
    else:
        if elastic or value_range != 1.0:
            raise InputError(
                f"'{kind}' sets its own value range, and is not elastic",
                hint="omit --elastic and --value-range",
            )
        architecture = ARCHITECTURES[importer.arch]
        scales, card, value_range = architecture.scales, importer.card, importer.value_range
        weights = _scaled(_rename(weights, importer.names), importer.factors)
    if options.variant is None:
        size = architecture.size_of(weights)
    else:
        size = architecture.parse(options.variant)
    if elastic and len(architecture.points(size)) == 1:
        raise InputError(
            f"{architecture.name} {size} cannot be sliced into smaller variants",
            hint="omit --elastic",
        )
    config = architecture.config_of(weights)
    scale = _matching_scale(architecture, scales, size, weights, source=str(file))
    weights = fold_value_range(weights, architecture.build(scale, size, config), value_range)
    spec = architecture.spec(
        scale, size, elastic=elastic, config=config, **{**card, **options.card}
    )
    stem = file.stem if importer is None else kind
    return Checkpoint(named_by_scale(stem, scale), spec, weights)


def _from_spandrel(
    weights: Dict[str, Tensor], file: Path, note: str, options: _Options
) -> Checkpoint:
    """Return the checkpoint of a network that spandrel recognised, not yet written."""
    if options.variant is not None or options.elastic or options.value_range != 1.0:
        raise InputError(
            f"{file} is a network of spandrel: it has no variants, and values of 0 to 1",
            hint="omit --variant, --elastic and --value-range",
        )
    model = model_from_weights(weights, source=str(file))
    assert model is not None
    notes = f"imported from {file.name}{note}: {model.notes}"
    if "notes" in options.card:
        notes = f"{options.card['notes']}; {notes}"
    spec = model.spec(**{**options.card, "notes": notes})
    return Checkpoint(named_by_scale(file.stem, model.scale), spec, weights)


def _recognised(weights: Dict[str, Tensor], file: Path) -> Tuple[str, Dict[str, Tensor], str]:
    """Return the kind of a state dict, its tensors, and a note of what was left out or removed.

    A kind of ours counts before spandrel. Raises CheckpointError if no network is known, InputError
    if several kinds of ours fit.
    """
    for own in (True, False):
        for prefix, part in candidates(weights):
            if own:
                kinds = [kind for kind in (*IMPORTERS, *ARCHITECTURES) if _fits(kind, part)]
            else:
                kinds = [SPANDREL] if model_from_weights(part, source=str(file)) else []
            if len(kinds) > 1:
                raise InputError(
                    f"{file} fits several kinds: {', '.join(kinds)}",
                    hint=f"name one: srdeploy import-checkpoint {kinds[0]} {file}",
                )
            if kinds:
                left_out = len(weights) - len(part)
                note = f", tensors under '{prefix}'" if prefix else ""
                note += f", without {left_out} tensors beside the network" if left_out else ""
                return kinds[0], part, note
    first, value = next(iter(weights.items()))
    raise CheckpointError(
        f"{file} is of no network that is known: it has {len(weights)} tensors, "
        f"the first is '{first}' {tuple(value.shape)}",
        hint="name its kind: srdeploy import-checkpoint KIND FILE, or give its code: "
        "srdeploy export 'FILE.py:CLASS --weights FILE --scale N'",
    )


def _fits(kind: str, weights: Dict[str, Tensor]) -> bool:
    """Tell whether a state dict has exactly the tensors of a kind of ours, at any scale."""
    importer = IMPORTERS.get(kind)
    if importer is not None:
        official, weights = weights, _rename(weights, importer.names)
        if importer.names and set(weights) == set(official):  # they have our names already
            return False
    name = importer.arch if importer else kind
    if not any(tensor.startswith(_first_module(name)) for tensor in weights):
        return False  # without building the network, which may take a second
    architecture = ARCHITECTURES[name]
    try:
        size = architecture.size_of(weights)
        _matching_scale(architecture, architecture.scales, size, weights, source="")
    except InputError:  # several scales
        return True
    except (SrDeployError, LookupError):
        return False
    return True


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


@functools.lru_cache(maxsize=None)
def _first_module(arch: str) -> str:
    """Return how the names of tensors of an architecture of ours begin that each network has."""
    architecture = ARCHITECTURES[arch]
    with torch.device("meta"):
        net = architecture.build(architecture.scales[-1], architecture.parse(None))
    return next(iter(net.state_dict())).partition(".")[0] + "."


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
        hint = error.hint or "without KIND, the architecture is recognised by the tensors"
        raise CheckpointError(error.message, hint=hint)
    return matching[0]
