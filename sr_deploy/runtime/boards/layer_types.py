"""The precision of an engine, from what TensorRT reports of its layers.

It is reported as JSON by the inspector (`--exportLayerInfo`, 8.2 and newer), and as text in the log
of a build: by TensorRT for RTX in a message of its own, by TensorRT 8.0 if it is verbose.
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List, Tuple

from sr_deploy.core.errors import ArtifactError

_STOPPED = "trtexec may have been stopped while writing: run it again"
LOGGED = "Layers:\n"
"""Begins the message of TensorRT for RTX that lists the layers of an engine."""
# Layers that move or convert data: their types do not tell what the network is computed in.
_DATA_MOVEMENT = re.compile(
    r"reformat|noop|cast|constant|shuffle|slice|concat|gather|copy|identity|signal|wait|shape", re.I
)
_DATA_MOVEMENT_NAME = re.compile(
    r"Reformatting CopyNode|__myl_(?:Cast|Move|Tran|Resh|Slic|Conc|Repl)+(?:_|$)"
)
_TYPES = {
    "fp16": re.compile(r"\b(?:FP16|Half|Float16)\b", re.I),
    "fp32": re.compile(r"\b(?:FP32|Float|Float32)\b", re.I),
    "int8": re.compile(r"\bINT8\b", re.I),
}
_WITH_WEIGHTS = re.compile(r"conv(?!ert)|correlation|runtime_fusion", re.I)
_MAYBE_WITH_WEIGHTS = re.compile(r"gemm|matrix ?multiply|fullyconnected", re.I)
"""A product of two computed values has two inputs, one with weights has one."""
_OF_RTX = re.compile(
    r"Name: (.*?), LayerType: (\w+), Inputs: (.*), Constants: .*, Outputs: (.*), TacticName"
)
_OF_8_0 = re.compile(r"Layer\((\w+)\): (.*), Tactic: -?\w+, (.*) -> (.*)")
_Layer = Dict[str, Any]


def layers_from_json(text: str) -> List[_Layer]:
    """Return the layers in the inspector's JSON. Raises ArtifactError when it is something else."""
    try:
        data = json.loads(text)
    except ValueError as e:
        problem = f"the layer information cannot be read as JSON: {e}"
        raise ArtifactError(problem, hint=_STOPPED) from e
    layers = data.get("Layers") if isinstance(data, dict) else None
    if not isinstance(layers, list):
        raise ArtifactError("the layer information has no list 'Layers'")
    return [layer for layer in layers if isinstance(layer, dict)]


def layers_from_log(text: str) -> List[_Layer]:
    """Return the layers that a build logged; none where it logged none.

    A line of TensorRT for RTX is `Name: N, LayerType: T, Inputs: [..], Constants: [..], Outputs:
    [..], TacticName: ..`, with a `Datatype` of each tensor. One of TensorRT 8.0 is
    `Layer(T): N, Tactic: .., x[Int8(..)] -> y[..]`.
    """
    layers: List[_Layer] = []
    for line in text.splitlines():
        new = _OF_RTX.match(line)
        old = _OF_8_0.search(line)
        if new is not None:
            ends = [re.findall(r"\bDatatype: (\w+)", new[group]) for group in (3, 4)]
            layers.append(_logged(new[1], new[2], *ends))
        elif old is not None:
            ends = [re.findall(r"\[(\w+)\(", part) for part in (old[3], old[4])]
            layers.append(_logged(old[2], old[1], *ends))
    return layers


def precision_of_layers(layers: List[_Layer]) -> Tuple[str, Dict[str, int]]:
    """Return an engine's precision and the number of its layers by type.

    The precision is `int8`, `fp16`, `fp32`, `mixed`, or `unknown` where there are only names.

    Where a layer with weights computes in INT8, the layers with weights are counted, by what they
    multiply. Else a layer with tensors of both types counts as `fp16+fp32`; an FP16 engine has such
    layers at FP32 inputs and outputs.
    """
    counts: Dict[str, int] = {}
    for layer in filter(_has_weights, layers):
        kind = _multiplied(layer)
        if kind:
            counts[kind] = counts.get(kind, 0) + 1
    if "int8" in counts:
        return ("int8" if set(counts) == {"int8"} else "mixed"), counts
    counts = {}
    for layer in layers:
        name = str(layer.get("Name", ""))
        if _DATA_MOVEMENT.search(_kind(layer)) or _DATA_MOVEMENT_NAME.match(name):
            continue
        types = "+".join(t for t in _types_in(_layer_types(layer)) if t != "int8")
        if types:
            counts[types] = counts.get(types, 0) + 1
    if not counts:
        return "unknown", counts
    pure = set(counts) - {"fp16+fp32"}
    if pure == {"fp16"} or set(counts) == {"fp32"}:
        return pure.pop(), counts
    return "mixed", counts


def _logged(name: str, kind: str, inputs: List[str], outputs: List[str]) -> _Layer:
    ends = {"Inputs": inputs, "Outputs": outputs}
    tensors = {key: [{"Datatype": text} for text in texts] for key, texts in ends.items()}
    return {"Name": name, "LayerType": kind, **tensors}


def _kind(layer: _Layer) -> str:
    return f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}"


def _has_weights(layer: _Layer) -> bool:
    kind = _kind(layer)
    if _WITH_WEIGHTS.search(kind):
        return True
    weights = layer.get("Weights")
    has_some = isinstance(weights, dict) and bool(weights.get("Count"))
    one_input = len(layer.get("Inputs") or []) == 1
    return bool(_MAYBE_WITH_WEIGHTS.search(kind)) and (has_some or one_input)


def _multiplied(layer: _Layer) -> str:
    """Return the type of the weights, or else of the first input; empty where it is unknown."""
    types = _types_in(_layer_types(layer)[:1])
    return types[0] if types else ""


def _types_in(texts: List[str]) -> List[str]:
    return [name for name, pattern in _TYPES.items() if any(map(pattern.search, texts))]


def _layer_types(layer: _Layer) -> List[str]:
    """Return the type of the weights, or else of the tensors.

    Without an execution context, a dynamic engine has types for its weights only.
    """
    weights = layer.get("Weights")
    weight_type = str(weights.get("Type", "")) if isinstance(weights, dict) else ""
    if _types_in([weight_type]):
        return [weight_type]
    tensors = [*(layer.get("Inputs") or []), *(layer.get("Outputs") or [])]
    keys = ("Format/Datatype", "DataType", "Datatype", "Format")
    return [str(next(filter(None, map(t.get, keys)), "")) for t in tensors if isinstance(t, dict)]
