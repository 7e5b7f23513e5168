from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from sr_deploy.bench import turns
from sr_deploy.bench.turns import BaselineTurns, PartnerTurns, Turns
from sr_deploy.core.errors import InputError
from sr_deploy.results.protocols import PROTOCOLS, scores_here
from sr_deploy.results.rows import BenchmarkRow

SPAN = PROTOCOLS["ntire2026"].baseline
ROW = BenchmarkRow(
    model="span_x4",
    variant="",
    backend="torch",
    protocol="ntire2026",
    latency_ms_mean=8.0,
    params=150_688,
    macs_g=9.8,
)


class Opened:
    """What `begin` asks of a session."""

    place = "cpu"


def partner(monkeypatch, script):
    """Turns with a child that runs `script`, with `row`, `say(line)` and `turn()` defined."""
    code = (
        "import json, sys; request = json.loads(sys.argv[1])\n"
        f"row = json.loads({json.dumps(dataclasses.asdict(ROW))!r})\n"
        "say = lambda line: print(line, flush=True)\n"
        "turn = sys.stdin.readline\n"
    )
    monkeypatch.setattr(turns, "_CHILD", code + script)
    return contextlib.closing(BaselineTurns(SPAN, {"asked": 1}))


WELL = """
order = open(r'{order}', 'a')
for cpu_s in (1.0, 1.5):
    say(cpu_s)
    turn()
    print('baseline', request['asked'], request['device'], file=order, flush=True)
say(json.dumps({{'row': row}}))
"""


def test_images_of_network_and_baseline_alternate(monkeypatch, tmp_path):
    order = tmp_path / "order"
    with partner(monkeypatch, WELL.format(order=order)) as both:
        both.begin(Opened())
        assert both.partner_cpu_s == 1.0
        for _ in range(2):
            with both.turn(), open(order, "a") as f:
                print("network", file=f)
        assert both.partner_cpu_s == 1.5
        row = both.partner()
    assert order.read_text().split("\n")[:-1] == ["network", "baseline 1 cpu"] * 2
    assert both.fields() == {"name": "SPAN", "ms": 8.0, "macs_g": 9.8, "params_m": 0.150688}
    assert row == replace(ROW, baseline=both.fields())
    assert scores_here(row)[0] == pytest.approx(np.exp(2)), "its own score is e squared"


@pytest.mark.parametrize(
    "script, images, error",
    [
        ("say(json.dumps({'error': 'no torch', 'hint': 'install it'}))", 0, "no torch"),
        ("sys.exit(3)", 0, "its process exited with 3"),
        ("say(0.0); turn(); import os; os.kill(os.getpid(), 9)", 1, "was ended by SIGKILL"),
        ("say(0.0); turn(); say(1.0); turn()", 1, "it scores more images than the network"),
        ("row['error'] = 'no memory'; say(json.dumps({'row': row}))", 0, "no memory"),
    ],
)
def test_a_baseline_that_fails_tells_why(monkeypatch, script, images, error):
    with partner(monkeypatch, script) as both, pytest.raises(InputError) as e:
        both.begin(Opened())
        for _ in range(images):
            with both.turn():
                pass
        both.partner()
    assert "the baseline SPAN could not be measured beside the network" in e.value.message
    assert error in e.value.message


def test_the_child_waits_for_its_turns_and_ends_with_its_parent():
    answers = io.StringIO()
    child = PartnerTurns(io.StringIO("2.5\n"), answers, cpu_s=0.5, place="cuda:0")
    with child.turn():
        assert child.partner_cpu_s == 2.5
    assert float(answers.getvalue()) > 0
    with pytest.raises(SystemExit), child.turn():
        pytest.fail("the parent has ended")


def test_a_network_alone_takes_all_turns():
    alone = Turns()
    alone.begin(Opened())
    with alone.turn():
        pass
    assert alone.partner() is None and alone.fields() is None and alone.partner_cpu_s == 0
    alone.close()
