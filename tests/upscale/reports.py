"""Lists of the reports of a run."""

from __future__ import annotations

import contextlib

from sr_deploy.core.progress import Advance, Progress
from sr_deploy.upscale.reporter import Reporter


class Reports:
    def __init__(self):
        self.lines, self.paths, self.counts, self.advances = [], [], [], []
        self.reporter = Reporter(_Log(self), self.paths.append)


class _Log(Progress):
    def __init__(self, reports):
        self._reports = reports

    def __call__(self, line):
        self._reports.lines.append(line)

    @contextlib.contextmanager
    def track(self, what, total=0, *, unit="", done=0):
        self._reports.counts.append((done, total))
        yield _Step(self._reports)


class _Step(Advance):
    def __init__(self, reports):
        self._reports = reports

    def __call__(self, detail="", *, steps=1):
        self._reports.advances += [1] * steps
