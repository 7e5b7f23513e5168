"""What a rule of the preflight is: when it applies, and the parser and node that it looks at."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Callable, Iterator, List, Optional, Tuple

from sr_deploy.core.target import TargetProfile
from sr_deploy.runtime.onnx_view import Graph

Version = Tuple[int, ...]
EXPORT_AGAIN = "export it again with --target "
"""Begins the hints of findings that an export would remedy."""
EXPORT = EXPORT_AGAIN + "{target} --precision {precision}"
TENSORRT, RTX = ("tensorrt", "tensorrt-rtx"), ("tensorrt-rtx",)


@dataclass(frozen=True)
class Finding:
    """One thing in a graph that a parser would not do as written."""

    severity: str
    """`error`: refused or misread; `warning`: it works, but not as requested."""
    node: str
    """Its name, empty for the graph."""
    operator: str
    what: str
    hint: str

    @property
    def where(self) -> str:
        return f"node '{self.node}' ({self.operator})" if self.operator else "the graph"


def lowest_version(target: TargetProfile) -> Version:
    """Return the lowest runtime version of a profile as three numbers; zeros when it has none."""
    bounds = re.findall(r">=\s*(\d+(?:\.\d+)*)", target.runtime_versions)
    versions = [tuple(int(n) for n in bound.split(".")) for bound in bounds]
    return (max(versions, default=()) + (0, 0, 0))[:3]


@dataclass(frozen=True)
class Parser:
    """The parser that would read the graph, and the engine to build."""

    target: TargetProfile
    precision: str
    dla: bool
    part: bool = False
    """Whether the graph is a part of an adaptive network, not a whole one."""

    @property
    def rtx(self) -> bool:
        return self.target.runtime == "tensorrt-rtx"

    @property
    def strongly_typed(self) -> bool:
        return self.target.fp16_graph == "fp16"

    def before(self, version: Optional[Version]) -> bool:
        """Return whether the profile has an older version than this. None: all are too old."""
        # [rtx]: it reads the same as 10.15 and later.
        lowest = (11, 0, 0) if self.rtx else lowest_version(self.target)
        return version is None or lowest < (version + (0, 0, 0))[:3]


Check = Callable[[Any, Parser], Iterator[str]]


@dataclass(frozen=True)
class Rule:
    """Says when a check applies. It decorates a function that receives a node or the graph, and the
    parser, and yields messages.
    """

    hint: str
    ops: str = ""
    """The standard operators it applies to, separated by spaces; empty: all."""
    severity: str = "error"
    subject: str = "node"
    """What it checks: `node`, `foreign` (nodes of other domains), or `graph`."""
    runtimes: Tuple[str, ...] = TENSORRT
    before: Optional[Version] = None
    """It applies to profiles with an older version; None: to all."""
    dla: bool = False
    """It applies only when the DLA is requested."""

    def __call__(self, check: Check) -> Check:
        RULES.append((self, check))
        return check

    def findings(self, check: Check, graph: Graph, to: Parser) -> Iterator[Tuple[int, Finding]]:
        """Yield findings with the positions of their nodes, -1 for the graph."""
        hint = self.hint.format(target=to.target.option, precision=to.precision)
        if self.subject == "graph":
            for message in check(graph, to):
                yield -1, Finding(self.severity, "", "", message, hint)
            return
        for position, node in enumerate(graph.nodes):
            applies = not self.ops or node.op in self.ops.split()
            if applies and node.standard == (self.subject == "node"):
                for message in check(node, to):
                    yield position, Finding(self.severity, node.name, node.op, message, hint)


RULES: List[Tuple[Rule, Check]] = []


def not_read(first: Optional[Version]) -> str:
    """Return `not read`, with the version since which it is."""
    return "not read" + (f" before TensorRT {'.'.join(map(str, first))}" if first else "")
