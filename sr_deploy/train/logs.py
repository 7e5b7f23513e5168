"""The logs of a run in NAME.logs: metrics.csv, and the same for TensorBoard."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Dict, Iterator, List, Optional

from torch.utils.tensorboard import SummaryWriter

from sr_deploy.core.files import make_output_folder, write_text


class MetricsLog:
    """Writes metrics by step; a resumed run goes on in the same files.

    The first line of metrics.csv names the columns of all others. A metric that is None is empty.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """Open the logs, and drop what lies after `step`, from which the run goes on.

        Raises OSError, and InputError when the folder cannot be written.
        """
        make_output_folder(folder)
        self.path = folder / "metrics.csv"
        self.columns: List[str] = []
        if self.path.is_file():
            self._drop_after(step)
        self.writer = SummaryWriter(str(folder), purge_step=step + 1)

    def _drop_after(self, step: int) -> None:
        text = self.path.read_text("utf-8", errors="replace")
        header, *lines = text.splitlines(keepends=True) or [""]
        number = {line: line.partition(",")[0] for line in lines if line.endswith("\n")}
        kept = [line for line, n in number.items() if n.isdigit() and int(n) <= step]
        if kept:
            self.columns = header.rstrip("\n").split(",")
            write_text(self.path, "".join([header, *kept]))
        else:
            self.path.unlink()

    def write(self, step: int, metrics: Dict[str, Optional[float]]) -> None:
        """Add the metrics of a step. Raises OSError."""
        values = {name: value for name, value in metrics.items() if value is not None}
        with open(self.path, "a", encoding="utf-8", newline="") as f:
            if not self.columns:
                self.columns = ["step", *metrics]
                f.write(",".join(self.columns) + "\n")
            row = [f"{values[name]:.6g}" if name in values else "" for name in self.columns[1:]]
            f.write(",".join([str(step), *row]) + "\n")
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        """Raises OSError on a full disk."""
        self.writer.close()


@contextlib.contextmanager
def quiet_log_writers() -> Iterator[None]:
    """Suppress the traceback of TensorBoard's thread on a full disk; the next log raises it."""
    hook = threading.excepthook
    threading.excepthook = lambda args: None if issubclass(args.exc_type, OSError) else hook(args)
    try:
        yield
    finally:
        threading.excepthook = hook
