"""A challenge's baseline, timed in turns with a network: image by image, in a process of its own.

Both see the same state of the machine. As in the challenge, each has a process of its own: it pays
for its own start, and its memory is its own. While one runs, the other waits for it.

The parent writes a line for each turn of the child, the child one when it is ready and after each
turn: the CPU time that its process has used. The child's last line is its row, or an error, as a
JSON object.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from typing import IO, Any, ContextManager, Dict, Iterator, Optional, Sequence

from sr_deploy.core.errors import InputError, SrDeployError
from sr_deploy.core.jsonio import from_dict
from sr_deploy.core.lifeline import PARENT_GRACE_S, signal_name
from sr_deploy.core.session import Session
from sr_deploy.core.timing import PAUSE_S
from sr_deploy.results.protocols import Baseline, Protocol, time_ms
from sr_deploy.results.rows import BenchmarkRow
from sr_deploy.runtime.opener import NetworkDescription, describe

_CHILD = (
    "import json, sys; request = json.loads(sys.argv[1]); sys.path[:] = request.pop('path'); "
    "from sr_deploy.bench.baseline import main; main(request)"
)


def baseline_networks(
    networks: Sequence[NetworkDescription], protocols: Sequence[Protocol]
) -> Dict[str, NetworkDescription]:
    """Return the baseline of each protocol that has one, for scores of `networks`.

    It is the first checkpoint among `networks` that is counted like the baseline, else our own of
    that name, with random weights if none are shipped. Raises InputError for networks of another
    scale.
    """
    baselines = {}
    for protocol in protocols:
        if protocol.baseline is None:
            continue
        for network in networks:
            if network.find_scale() not in (None, protocol.scale):
                raise InputError(
                    f"{network.name} upscales by {network.find_scale()}; the baseline of "
                    f"{protocol.name}, {protocol.baseline.name}, by {protocol.scale}",
                    hint="omit --score, or the network",
                )
        own = describe(protocol.baseline.network, "all", untrained=True)[-1]
        given = (network for network in networks if network.kind == "checkpoint")
        same = (network for network in given if _counts(network) == _counts(own))
        baselines[protocol.name] = next(same, own)
    return baselines


def _counts(network: NetworkDescription) -> Optional[Dict[str, Any]]:
    with contextlib.suppress(SrDeployError):
        return network.counts()
    return None


def _pause_s(place: str) -> float:
    return PAUSE_S if place == "cpu" else 0.0


class Turns:
    """The turns of a network that runs alone."""

    partner_cpu_s: float = 0.0
    """The CPU time of the partner's process, which runs while this one waits."""
    pause_s: float = 0.0
    """On a CPU: the threads of the partner's run spin for a while."""

    def begin(self, session: Session) -> None:
        """Start the partner, on the device of an opened session."""

    def turn(self) -> ContextManager[None]:
        """Return the context of one image."""
        return contextlib.nullcontext()

    def partner(self) -> Optional[BenchmarkRow]:
        """Return the partner's row, after the last turn; None without one."""
        return None

    def fields(self) -> Optional[Dict[str, Any]]:
        """Return the field `baseline` of the network's row, after the last turn."""
        return None

    def close(self) -> None:
        """End the partner."""


class BaselineTurns(Turns):
    """Takes turns with a child process that measures the baseline; to be closed.

    request: what `bench/baseline.py` measures, without its device. Raises InputError where the
    child cannot measure, or measures other images.
    """

    def __init__(self, baseline: Baseline, request: Dict[str, Any]) -> None:
        self._baseline, self._request = baseline, request
        self._child: Optional[subprocess.Popen[str]] = None
        self._row: Optional[BenchmarkRow] = None

    def begin(self, session: Session) -> None:
        request = {**self._request, "device": session.place, "cpu_s": time.process_time()}
        command = [sys.executable, "-c", _CHILD, json.dumps({**request, "path": sys.path})]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        )
        self.pause_s = _pause_s(session.place)
        self._read()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        time.sleep(self.pause_s)
        yield
        assert self._child is not None and self._child.stdin is not None
        with contextlib.suppress(OSError):  # it has ended: the next read tells how
            self._child.stdin.write(f"{time.process_time()}\n")
            self._child.stdin.flush()
        self._read()

    def partner(self) -> Optional[BenchmarkRow]:
        if self._child is not None and self._row is None:
            raise self._error("it scores more images than the network")
        return self._row

    def fields(self) -> Optional[Dict[str, Any]]:
        row = self.partner()
        return None if row is None else row.baseline

    def _fields_of(self, row: BenchmarkRow) -> Optional[Dict[str, Any]]:
        if row.macs_g is None or row.params is None:
            return None
        numbers = {"ms": time_ms(row), "macs_g": row.macs_g, "params_m": row.params / 1e6}
        return {"name": self._baseline.name, **numbers}

    def close(self) -> None:
        if self._child is None:
            return
        with self._child as child:  # closes its input: it ends at its next turn
            if child.stdin is not None:
                with contextlib.suppress(OSError):
                    child.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(PARENT_GRACE_S)
            child.kill()

    def _read(self) -> None:
        """Wait for the child's line."""
        assert self._child is not None and self._child.stdout is not None
        line = self._child.stdout.readline()
        if line.startswith("{"):
            answer = json.loads(line)
            if "error" in answer:
                raise self._error(answer["error"], answer.get("hint", ""))
            self._row = from_dict(BenchmarkRow, answer["row"], source="a row", error=InputError)
            if self._row.error:
                raise self._error(self._row.error)
            self._row = replace(self._row, baseline=self._fields_of(self._row))
        elif line:
            self.partner_cpu_s = float(line)
        else:
            code = self._child.wait()
            how = f"was ended by {signal_name(-code)}" if code < 0 else f"exited with {code}"
            raise self._error(f"its process {how}")

    def _error(self, reason: str, hint: str = "") -> InputError:
        b = self._baseline
        return InputError(
            f"the baseline {b.name} could not be measured beside the network: {reason}",
            hint=hint or "omit --score to measure the network alone",
        )


class PartnerTurns(Turns):
    """The turns of the child: it waits for the parent's line before each image."""

    def __init__(self, turns: IO[str], answers: IO[str], *, cpu_s: float, place: str) -> None:
        self._turns, self._answers = turns, answers
        self.partner_cpu_s, self.pause_s = cpu_s, _pause_s(place)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        self._say(str(time.process_time()))
        line = self._turns.readline()
        if not line:  # the parent has ended
            sys.exit(1)
        self.partner_cpu_s = float(line)
        time.sleep(self.pause_s)
        yield

    def answer(self, answer: Dict[str, Any]) -> None:
        """Write the last line."""
        self._say(json.dumps(answer))

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # the parent has ended: the next turn tells
            self._answers.write(line + "\n")
            self._answers.flush()
