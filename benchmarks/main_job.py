"""Run the main job on photographs: python3 benchmarks/main_job.py [HR_DIR]

Needs only Python: it creates its own environment. Exports every variant of three shipped
checkpoints, builds FP16 engines for RTX GPUs and engines for this CPU, measures checkpoints, graphs
and engines, and prints the table. The results are in `out/`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from environment import create_environment  # noqa: E402

MODELS = ("asrn_x4", "imdeception_x4", "srn-ntire_x4")
SIZE = "128x128"


def main() -> int:
    data = [f"--data={Path(sys.argv[1]).resolve()}"] if len(sys.argv) > 1 else []
    python = str(create_environment(".venv-main", ["-c", "constraints.txt", "-e", ".[export,rtx]"]))
    start = time.monotonic()

    def srdeploy(*arguments: str, stdout: object = sys.stderr) -> None:
        print("\n$ srdeploy " + " ".join(arguments), file=sys.stderr, flush=True)
        done = subprocess.run(
            [python, "-m", "sr_deploy.cli.main", *arguments], cwd=str(ROOT), stdout=stdout
        )
        if done.returncode != 0:
            sys.exit(done.returncode)

    srdeploy("models")
    for model in MODELS:
        srdeploy("export", model, "--target", "rtx", "--size", SIZE, "-o", "out/rtx")
        srdeploy("export", model, "--target", "cpu", "-o", "out/cpu")
    srdeploy("build-engine", "out/rtx", "--target", "rtx", "-o", "out/engines")
    srdeploy("build-engine", "out/cpu", "--target", "cpu", "-o", "out/engines")
    # The checkpoints by torch, to compare their engines with.
    networks = (*MODELS, "--runtime", "torch", "out/cpu", "out/engines")
    srdeploy("bench", *networks, "--size", SIZE, *data, "-o", "out", stdout=None)
    print(
        f"\ndone in {time.monotonic() - start:.0f} s without setup; results are in out/",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
