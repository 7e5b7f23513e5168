"""Measures what the architecture of an imported checkpoint does not tell, for its card."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Tuple

from sr_deploy.core.files import write_text
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.run_options import CPU_RUN
from sr_deploy.core.session import SizeContract
from sr_deploy.core.shipped import read_card
from sr_deploy.runtime.receptive_field import measure_field
from sr_deploy.runtime.torch_module import TorchSession


def with_receptive_field(checkpoint: Any) -> Tuple[Any, str]:
    """Measure the receptive field of a written `Checkpoint` without variants.

    Returns the checkpoint with halo_px and align_px on its card, which is written again, and a
    sentence about them. One whose architecture is ours is returned as it is, with no sentence.
    """
    if checkpoint.architecture.from_weights is None:
        return checkpoint, ""
    spec = read_card(checkpoint.path)
    sizes = SizeContract(min_hw=spec.min_hw, multiple=spec.multiple)
    session = TorchSession(
        checkpoint.network(),
        scale=spec.scale,
        min_hw=spec.min_hw,
        multiple=spec.multiple,
        run=CPU_RUN,
    )
    with session:
        report = measure_field(session.run, scale=spec.scale, sizes=sizes)
    spec = replace(spec, halo_px=report.halo_px, align_px=report.align_px)
    write_text(checkpoint.path.with_suffix(".json"), to_json(spec))
    return replace(checkpoint, spec=spec), str(report)
