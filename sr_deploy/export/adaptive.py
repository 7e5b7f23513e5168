"""Any adaptive network as it is deployed: a router with its branches, or an AdaEDSR both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, List, Union

from sr_deploy.core.depths import WAYS
from sr_deploy.core.routing import is_router
from sr_deploy.export.adadsr import plan_from_checkpoint
from sr_deploy.export.routed import plan_from_router


def plans_from_model(
    model: Union[str, Path], output: Union[str, Path], *, progress: Callable[[str], None] = lambda line: None
) -> List[Path]:  # fmt: skip
    """Export a router or an AdaEDSR checkpoint to `output`; return the paths of its plans. Raises an SrDeployError on bad input."""
    if is_router(str(model)):
        return [plan_from_router(model, output, progress=progress)]
    return [plan_from_checkpoint(model, output, way=way) for way in WAYS]
