"""A reporter that keeps what it is given."""

from __future__ import annotations

import contextlib

from sr_deploy.upscale.reporter import Reporter


class Reports(Reporter):
    def __init__(self):
        self.lines, self.paths, self.counts, self.advanced = [], [], [], 0

    def log(self, line):
        self.lines.append(line)

    def written(self, path):
        self.paths.append(path)

    @contextlib.contextmanager
    def frames(self, done, total):
        self.counts.append((done, total))
        yield self._advance

    def _advance(self):
        self.advanced += 1
