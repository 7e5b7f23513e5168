"""Run the commands on mutated files: none may end in a traceback, crash, hang or half a result.

    python tests/fuzz.py --count 10000 --seed 0

Each input is a small valid file of one of `KINDS`, changed as its number and the seed decide, and
is read by a real command in a child process. A failure is kept in the folder `out/fuzz`, and the
run goes on. `--index N` runs one input and shows what its command prints.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import pickle
import random
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from fuzz_cases import KINDS, ROOT, working_folder  # noqa: E402

SECONDS = 30
"""A command that takes longer hangs."""
MEMORY = 12 * 2**30
"""Address space of a child."""
EXPECTED = re.compile(
    r"^(error: \S|Error: \S|.*: error: \S|.*failed|  intact: no: \S|.* errors?, )", re.MULTILINE
)
UNEXPECTED = re.compile(r"Traceback|internal error|Error:? ?\(|object at 0x|NoneType")


def choose(seed, index, kinds):
    """Return the random generator of an input, and its kind."""
    rng = random.Random(f"{seed} {index}")
    return rng, rng.choices(kinds, [KINDS[kind][1] for kind in kinds])[0]


def write_input(rng, cases, folder):
    """Write a mutated case to a folder; return it and its command."""
    case = rng.choice(cases)
    other = rng.choice(cases)
    files = dict(case.files)
    files[case.mutated] = case.mutation(rng, files[case.mutated], other.files[other.mutated])
    with contextlib.suppress(ValueError, KeyError, TypeError):  # the manifest was mutated, too
        if case.seal is not None:
            case.seal(files, case.mutated)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return case, rng.choice(case.commands)


def judge(case, result, folder, before):
    """Return what is wrong with a command's end; empty if nothing is."""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        import traceback

        return "traceback", "".join(traceback.format_exception(*result.exc_info))
    if result.exit_code not in (0, 1, 2):
        return "exit code", f"{result.exit_code}: {result.stderr}"
    if UNEXPECTED.search(result.stderr) or (
        result.exit_code and not EXPECTED.search(result.stderr + result.stdout)
    ):
        return "words", result.stderr + result.stdout
    present = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
    left = [str(p) for p in present - before if not str(p).endswith(case.keeps or "?")]
    left = [name for name in left if result.exit_code or Path(name).name.startswith(".partial")]
    if left:
        return "left behind", f"{', '.join(left)}: {result.stderr}"
    return "", ""


def run_input(cases, rng, folder):
    """Write and run one input; return its end, a text about it and the command."""
    from click.testing import CliRunner

    from sr_deploy.cli.main import main

    try:
        runner = CliRunner(mix_stderr=False)
    except TypeError:  # click 8.2
        runner = CliRunner()
    case, command = write_input(rng, cases, folder)
    before = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
    os.chdir(folder)
    result = runner.invoke(main, command.split())
    os.chdir("/")
    kind, text = judge(case, result, folder, before)
    return {
        "end": kind or ("done" if result.exit_code == 0 else "refused"),
        "text": text,
        "command": command,
        "stderr": result.stderr,
    }


def child(work, seed, indices):
    """Run inputs, and report each before and after on standard output."""
    report = os.fdopen(os.dup(1), "w")
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    every = pickle.loads((work / "cases.pickle").read_bytes())
    for index in indices:
        rng, kind = choose(seed, index, list(every))
        print(json.dumps({"index": index, "kind": kind}), file=report, flush=True)
        folder = work / f"{seed}-{index}-{kind}"
        folder.mkdir()
        told = run_input(every[kind], rng, folder)
        if told["end"] in ("done", "refused"):
            shutil.rmtree(folder, ignore_errors=True)
        print(json.dumps({"index": index, "kind": kind, **told}), file=report, flush=True)


class Run:
    """The parent's side: starts children, and keeps what failed."""

    def __init__(self, work, seed, count, kept):
        self.work, self.seed, self.count, self.kept = work, seed, count, kept
        self.ends = collections.Counter()
        self.failures = []
        self.next = 0

    def go(self):
        while self.next < self.count:
            self.batch()

    def batch(self):
        """Run a child until it ends; whatever input it dies of is noted."""
        command = [sys.executable, __file__, "--child", str(self.work), "--seed", str(self.seed)]
        command += ["--count", str(self.count), "--index", str(self.next)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        running, buffer = None, b""
        while True:
            ready, _, _ = select.select(
                [process.stdout], [], [], 120 if running is None else SECONDS
            )
            chunk = os.read(process.stdout.fileno(), 1 << 16) if ready else None
            if not chunk:
                break
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                told = json.loads(line)
                running = None if "end" in told else told
                if running is None:
                    self.note(told)
        if chunk is None:
            process.kill()
        code = process.wait()
        process.stdout.close()
        if running is not None:
            end = "hang" if chunk is None else "crash"
            self.note({**running, "end": end, "text": f"the child ended with {code}"})
        elif self.next < self.count:
            raise SystemExit(f"the child could not go on at input {self.next}: {code}")

    def note(self, told):
        self.next = told["index"] + 1
        self.ends[told["kind"], told["end"]] += 1
        if told["end"] in ("done", "refused"):
            return
        self.failures.append(told)
        source = self.work / f"{self.seed}-{told['index']}-{told['kind']}"
        target = self.kept / source.name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, dirs_exist_ok=True)
        shutil.rmtree(source, ignore_errors=True)
        (target / "REPORT.txt").write_text(json.dumps(told, indent=2), encoding="utf-8")
        reason = told["text"].strip().splitlines() or [""]
        line = f"input {told['index']} ({told['kind']}): {told['end']}: {reason[-1][:150]}"
        print(line, file=sys.stderr, flush=True)

    def summary(self):
        """Return the result, in a line for each kind and one for all."""
        lines = []
        for kind in KINDS:
            ends = {end: n for (name, end), n in sorted(self.ends.items()) if name == kind}
            if ends:
                told = ", ".join(f"{n} {end}" for end, n in ends.items())
                lines.append(f"  {kind:15}{sum(ends.values()):6} inputs: {told}")
        total = collections.Counter()
        for (_, end), n in self.ends.items():
            total[end] += n
        told = ", ".join(
            f"{total[end]} {word}"
            for end, word in (
                ("traceback", "tracebacks"),
                ("crash", "crashes"),
                ("hang", "hangs"),
                ("words", "unclear messages"),
                ("left behind", "left behind"),
                ("exit code", "other exit codes"),
            )
        )
        return [f"seed {self.seed}: {sum(total.values())} inputs, {told}", *lines]


def fuzz(count, seed, kinds=tuple(KINDS), kept=ROOT / "out" / "fuzz"):
    """Run `count` inputs; return the `Run`."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        every = {kind: KINDS[kind][0]() for kind in kinds}
        run = Run(work, seed, count, Path(kept))
        (work / "cases.pickle").write_bytes(pickle.dumps(every))
        run.go()
    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=10000, help="number of inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS), action="append", help="only this kind")
    parser.add_argument("--index", type=int, help="run this input only, and show its output")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    kinds = options.kind or list(KINDS)
    if options.child:
        child(options.child, options.seed, range(options.index, options.count))
        return
    if options.index is not None:
        rng, kind = choose(options.seed, options.index, kinds)
        with working_folder() as folder:
            cases = KINDS[kind][0]()
            print(json.dumps(run_input(cases, rng, folder), indent=2))
        return
    start = time.monotonic()
    run = fuzz(options.count, options.seed, kinds)
    print(*run.summary(), sep="\n")
    print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
    sys.exit(1 if run.failures else 0)


if __name__ == "__main__":
    main()
