"""The child process that measures a challenge's baseline in turns with its parent's network."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import Any, Dict

from sr_deploy.bench.measure import MeasureOptions, measure_row
from sr_deploy.bench.own_memory import requested_network
from sr_deploy.bench.turns import PartnerTurns
from sr_deploy.core.errors import SrDeployError
from sr_deploy.core.run_options import RunOptions


def main(request: Dict[str, Any]) -> None:
    """Measure what a request of `BaselineTurns` names, in turns by stdin and stdout."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print
    with answers:
        cpu_s, place = request["cpu_s"], request["device"]
        measure_in_turns(request, PartnerTurns(sys.stdin, answers, cpu_s=cpu_s, place=place))


def measure_in_turns(request: Dict[str, Any], turns: PartnerTurns) -> None:
    """Measure what a request names, and answer with its row or the error."""
    try:
        run = RunOptions(device=request["device"])
        options = MeasureOptions(**request["options"], run=run)
        (protocol,) = options.resolved_protocols
        row = measure_row(requested_network(request), protocol, options, turns)
        turns.answer({"row": dataclasses.asdict(row)})
    except SrDeployError as e:
        turns.answer({"error": e.message, "hint": e.hint})
    except KeyboardInterrupt:  # the parent got it too
        sys.exit(130)
