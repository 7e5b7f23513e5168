"""The nodes and names of an ONNX graph, with those of the graphs inside nodes.

Importable without onnx.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, Iterator, List, Set


def bodies_of(node: Any) -> List[Any]:
    """Return the subgraphs of an If, Loop or Scan node; empty for other nodes."""
    found = [a.g for a in node.attribute if a.HasField("g")]
    return found + [graph for a in node.attribute for graph in a.graphs]


def all_graphs(graph: Any) -> Iterator[Any]:
    """Yield a graph and, after it, those of its nodes."""
    yield graph
    for node in graph.node:
        for body in bodies_of(node):
            yield from all_graphs(body)


def all_nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph, then those of the graphs inside them."""
    for body in all_graphs(graph):
        yield from body.node


def names_read(node: Any) -> Set[str]:
    """Return the tensors that a node and the graphs inside it read."""
    names = set(node.input)
    for body in bodies_of(node):
        names.update(value.name for value in body.output)
        names.update(*map(names_read, body.node))
    return names - {""}


def needed_nodes(graph: Any, outputs: Iterable[str]) -> List[Any]:
    """Return the nodes of a graph, in order, that the named tensors need."""
    wanted, nodes = set(outputs), []
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            nodes.append(node)
            wanted |= names_read(node)
    return nodes[::-1]


def drop_unused_constants(graph: Any) -> None:
    """Remove the constants that no node and no output of a graph reads, in place."""
    read = {value.name for value in graph.output}.union(*map(names_read, graph.node))
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name not in read:
            del graph.initializer[i]


def sort_nodes(graph: Any) -> None:
    """Put each node after those that make what it reads, as ONNX demands.

    Some converters append nodes at the end, and ONNX Runtime takes them.
    """
    makers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    needs = [[makers[name] for name in names_read(node) if name in makers] for node in graph.node]
    if all(before < i for i, need in enumerate(needs) for before in need):
        return
    order: Dict[int, None] = {}
    entered: Set[int] = set()
    for start in range(len(needs)):
        stack = [] if start in order else [start]
        while stack:
            entered.add(stack[-1])
            missing = [i for i in needs[stack[-1]] if i not in order and i not in entered]
            if missing:
                stack.append(min(missing))
            else:
                order[stack.pop()] = None
    nodes = [type(node).FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes[i] for i in order)


def image_inputs(graph: Any) -> List[Any]:
    """Return a graph's inputs without those that have a value (as in files of old exporters)."""
    constants = {t.name for t in graph.initializer}
    return [value for value in graph.input if value.name not in constants]


def opset_of(model: Any) -> int:
    """Return the version of the standard operators that a model uses; 0 if it names none."""
    return next((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), 0)


def name_nodes(model: Any) -> None:
    """Give every node a unique name: its own, else that of its first output."""
    taken: Set[str] = set()
    for node in all_nodes(model.graph):
        name = node.name or next(filter(None, node.output), "") or node.op_type
        node.name = free_name(name, taken)


def free_name(name: str, taken: Set[str]) -> str:
    """Return a name that is not taken, and add it to these."""
    candidate, number = name, 1
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    taken.add(candidate)
    return candidate
