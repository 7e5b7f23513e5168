"""Lists of the reports of a run."""

from __future__ import annotations

import contextlib

from sr_deploy.upscale.reporter import Reporter


class Reports:
    def __init__(self):
        self.lines, self.paths, self.counts, self.advances = [], [], [], []
        self.reporter = Reporter(self.lines.append, self.paths.append, self._frames)

    def _frames(self, done, total):
        self.counts.append((done, total))
        return contextlib.nullcontext(lambda: self.advances.append(1))
