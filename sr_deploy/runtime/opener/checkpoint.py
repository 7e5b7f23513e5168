"""Checkpoints, run by torch: shipped names, and safetensors files with their cards."""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import Any, Dict, List

from sr_deploy.core.session import SizeContract
from sr_deploy.runtime.opener.description import Kind, NetworkDescription, Variants


class CheckpointKind(Kind):
    def matches(self, text: str) -> bool:
        """Return True: this kind comes last, and its errors name what was expected."""
        return True

    def describe(self, text: str, variants: Variants, trust: bool) -> List[NetworkDescription]:
        from sr_deploy.nets.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(text)
        names = checkpoint.spec.variants if variants is None else checkpoint.variants(variants)
        return [_describe_variant(text, checkpoint, str(name)) for name in names]


def _describe_variant(text: str, checkpoint: Any, name: str) -> NetworkDescription:
    from sr_deploy.runtime.torch_module import session_of_checkpoint

    spec, architecture, variant = (
        checkpoint.spec,
        checkpoint.architecture,
        checkpoint.spec.variant(name),
    )
    return NetworkDescription(
        kind="checkpoint",
        source=text,
        model=checkpoint.name,
        variant=name,
        identity=f"{spec.weights_sha256} {name}",
        sha256=spec.weights_sha256,
        backend="torch",
        opener=lambda: session_of_checkpoint(checkpoint, name),
        scale=spec.scale,
        sizes=SizeContract(
            min_hw=spec.min_hw,
            halo_px=architecture.halo_px(variant),
            align_px=architecture.align_px(variant),
        ),
        precision_asked="fp32",
        weights_sha256s=(spec.weights_sha256,),
        counts=functools.lru_cache(maxsize=None)(lambda: _counts(checkpoint, name)),
    )


def _counts(checkpoint: Any, variant: str) -> Dict[str, Any]:
    from sr_deploy.nets.complexity import NTIRE_HW, count

    network = checkpoint.network(variant)
    hooks, fvcore = (asdict(count(network, NTIRE_HW, counter=c)) for c in ("hooks", "fvcore"))
    return {**hooks, "fvcore": fvcore}
