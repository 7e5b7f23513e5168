"""A sweep's cells run in processes that end when the sweep does."""

from __future__ import annotations

import subprocess
import sys


def started(*arguments, **options):
    command = [sys.executable, "-m", "sr_deploy.cli.child", *map(str, arguments)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", **options
    )


def test_it_is_the_command_itself_while_its_parent_lives():
    with started("bench", "absent.onnx") as child:
        assert (
            child.stderr.read() == "error: there is no file absent.onnx\n"
        )  # its standard input is still open
        assert child.wait(60) == 1


def test_a_command_at_work_ends_when_its_parent_does(asrn, data):
    bench = [
        "bench",
        asrn,
        "--variants",
        "d1,d2",
        "--size",
        "8x8",
        "--runs",
        "10000",
        "--cadence",
        "10",
        "--data",
        data,
    ]
    with started(
        *bench, "--protocol", "steady", "--protocol", "ntire2022", stdout=subprocess.DEVNULL
    ) as child:
        # Then it waits for frames, for a quarter of an hour.
        assert any("d1 (torch), ntire2022" in line for line in child.stderr)
        child.stdin.close()
        assert child.wait(60) != 0
