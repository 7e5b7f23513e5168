"""Checkpoints, run by torch: shipped names, and safetensors files with their cards."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List

from sr_deploy.core.counts import NTIRE_HW
from sr_deploy.core.run_options import RunOptions
from sr_deploy.core.session import Session, SizeContract
from sr_deploy.core.shipped import shipped_checkpoints
from sr_deploy.core.sizes import HW, up_to_multiple
from sr_deploy.core.spec import check_min_hw
from sr_deploy.runtime.opener.description import Kind, NetworkDescription, Variants


class CheckpointKind(Kind):
    def matches(self, text: str) -> bool:
        """Return True: this kind comes last, and its errors name what was expected."""
        return True

    def describe(self, text: str, variants: Variants, trust: bool) -> List[NetworkDescription]:
        try:
            from sr_deploy.nets.checkpoint import load_checkpoint
        except ImportError:  # without torch a wrong name is still told
            from sr_deploy.nets.checkpoint_names import checkpoint_path

            checkpoint_path(text)
            raise

        checkpoint = load_checkpoint(text)
        names = checkpoint.spec.variants if variants is None else checkpoint.variants(variants)
        return [_describe_variant(text, checkpoint, str(name)) for name in names]


def describe_untrained(text: str, variants: Variants) -> List[NetworkDescription]:
    """Return an architecture at a scale, such as `span_x4`, with random weights.

    Empty for other texts, and for the name of a shipped checkpoint.
    """
    if Path(text).exists() or text in (path.stem for path in shipped_checkpoints()):
        return []
    from sr_deploy.nets.checkpoint import parse_untrained

    untrained = parse_untrained(text)
    if untrained is None:
        return []
    checkpoint = untrained.checkpoint()
    return [
        replace(_describe_variant(text, checkpoint, str(name)), untrained=True)
        for name in checkpoint.variants(variants)
    ]


def _describe_variant(text: str, checkpoint: Any, name: str) -> NetworkDescription:
    spec = checkpoint.spec
    variant = spec.variant(name)
    halo_px, align_px = checkpoint.halo_px(variant), checkpoint.align_px(variant)
    sizes = SizeContract(
        min_hw=spec.min_hw, halo_px=halo_px, align_px=align_px, multiple=spec.multiple
    )

    def open_variant(run: RunOptions) -> Session:
        from sr_deploy.runtime.torch_module import TorchSession

        return TorchSession(
            checkpoint.network(name),
            scale=spec.scale,
            min_hw=spec.min_hw,
            halo_px=halo_px,
            align_px=align_px,
            multiple=spec.multiple,
            run=run,
        )

    return NetworkDescription(
        kind="checkpoint",
        source=text,
        model=checkpoint.name,
        variant=name,
        identity=f"{spec.weights_sha256} {spec.digest} {name}",
        sha256=spec.weights_sha256,
        backend="torch",
        opener=open_variant,
        scale=spec.scale,
        sizes=sizes,
        precision_asked="fp32",
        degradation=spec.degradation,
        weights_sha256s=(spec.weights_sha256,),
        counts=functools.lru_cache(maxsize=None)(functools.partial(_counts, checkpoint, name)),
    )


def _counts(checkpoint: Any, variant: str, hw: HW = NTIRE_HW) -> Dict[str, Any]:
    from sr_deploy.nets.complexity import count_record

    check_min_hw(hw, checkpoint.spec.min_hw, what=checkpoint.name)
    return count_record(checkpoint.network(variant), up_to_multiple(hw, checkpoint.spec.multiple))
