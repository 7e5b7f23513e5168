"""The first inputs of tests/fuzz.py. CONTRIBUTING.md says how to run thousands."""

from __future__ import annotations

import os
import time

import pytest

for package in ("torch", "onnx", "onnxruntime", "cv2"):
    pytest.importorskip(package, reason=f"{package} is not installed; it makes the inputs")
pytest.importorskip("resource", reason="the fuzzer limits the memory of its children")

import fuzz  # noqa: E402
from fuzz_cases import Case  # noqa: E402

QUICK = (
    "graph", "manifest", "rows", "recipe", "target", "sweep", "selftest", "picture", "folder",
    "data",
)  # fmt: skip


def test_no_mutated_file_ends_in_a_traceback(tmp_path):
    run = fuzz.fuzz(200, 0, QUICK, tmp_path / "kept")
    assert run.failures == [], run.summary()
    done = {kind for kind, end in run.ends if end == "done"}
    assert done >= {*QUICK} - {"sweep", "selftest"}  # the files are valid but for the mutation


def breaks(rng, content, other):
    """A mutation that breaks the child itself."""
    way = rng.choice((os.abort, time.sleep, KeyError))
    if way is KeyError:
        from sr_deploy.results import rows

        rows.read_rows = content.decode  # raises a TypeError
    way(60) if way is time.sleep else way()
    return content


def test_tracebacks_crashes_and_hangs_are_seen_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", 2)
    case = Case({"r": b"x"}, "r", breaks, ("table r",))
    monkeypatch.setitem(fuzz.KINDS, "rows", (lambda: [case], 1))
    run = fuzz.fuzz(3, 0, ("rows",), tmp_path)
    assert {end for _, end in run.ends} == {"traceback", "crash", "hang"}
    assert len(run.failures) == 3 == len(list(tmp_path.glob("*/REPORT.txt")))
    assert run.summary()[0].startswith("seed 0: 3 inputs, 1 tracebacks, 1 crashes, 1 hangs, ")
