"""The nodes of a graph by the provider that ran them, from a profile of ONNX Runtime."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Tuple

from sr_deploy.core.precisions import precision_of_counts

_PRECISIONS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_COPIES = ("MemcpyToHost", "MemcpyFromHost")
_SUFFIX = "_kernel_time"
NAMED = 5


@dataclass(frozen=True)
class NodeRuns:
    """What ran in one or several runs of a session."""

    providers: Dict[str, Tuple[str, ...]]
    """Names of the nodes by provider. Copies between devices are not counted."""
    types: Dict[str, Dict[str, int]]
    """By provider the number of nodes of each floating type of result, without casts."""

    def elsewhere(self, provider: str) -> Dict[str, Tuple[str, ...]]:
        """Return the nodes that another provider ran."""
        return {name: nodes for name, nodes in self.providers.items() if name != provider}

    def describe_elsewhere(self, provider: str) -> str:
        """Return for example `2 of 41 nodes by CPUExecutionProvider: a, b`; empty if there are
        none."""
        total = sum(map(len, self.providers.values()))
        return "; ".join(
            f"{len(nodes)} of {total} nodes by {name}: {_listed(nodes)}"
            for name, nodes in self.elsewhere(provider).items()
        )

    @property
    def precision(self) -> str:
        """`fp16`, `fp32`, or for example `mixed: 165 fp16, 3 fp32`; empty if there is none."""
        return precision_of_counts(self.counts)

    @property
    def counts(self) -> Dict[str, int]:
        """The number of nodes of each floating type of result, by all providers."""
        counts: Dict[str, int] = {}
        for types in self.types.values():
            for name, number in types.items():
                counts[name] = counts.get(name, 0) + number
        return counts


def read_profile(path: Path) -> NodeRuns:
    """Read the file that `InferenceSession.end_profiling` names."""
    providers: Dict[str, Dict[str, None]] = {}
    types: Dict[str, Dict[str, str]] = {}
    for event in json.loads(path.read_text(encoding="utf-8")):
        arguments = event.get("args") or {}
        name, provider = event.get("name", ""), arguments.get("provider")
        if event.get("cat") != "Node" or not provider or not name.endswith(_SUFFIX):
            continue
        if arguments.get("op_name") in _COPIES:
            continue
        name = name[: -len(_SUFFIX)]
        providers.setdefault(provider, {})[name] = None
        precision = _precision(arguments)
        if precision:
            types.setdefault(provider, {})[name] = precision
    return NodeRuns(
        {provider: tuple(names) for provider, names in providers.items()},
        {provider: _counted(by_name) for provider, by_name in types.items()},
    )


def _precision(arguments: Dict[str, Any]) -> str:
    """Return the floating type of a node's first result; empty for casts and other types."""
    results = arguments.get("output_type_shape") or [{}]
    kind = next(iter(results[0]), "")
    return "" if arguments.get("op_name") == "Cast" else _PRECISIONS.get(kind, "")


def _counted(by_name: Dict[str, str]) -> Dict[str, int]:
    kinds = list(by_name.values())
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def _listed(nodes: Tuple[str, ...]) -> str:
    more = f" and {len(nodes) - NAMED} more" if len(nodes) > NAMED else ""
    return ", ".join(nodes[:NAMED]) + more
