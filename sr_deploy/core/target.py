"""Target profiles of boards and GPU families, one JSON file each in `engines/targets/`."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

from sr_deploy.core.errors import InputError, TargetError, did_you_mean
from sr_deploy.core.files import data_folder
from sr_deploy.core.jsonio import at_line, read_dataclass, to_json
from sr_deploy.core.precisions import GRAPH_DTYPES, PRECISIONS, precisions_text
from sr_deploy.core.providers import BUILDERS, OPENVINO, PROVIDERS, TRTEXEC_RUNTIMES
from sr_deploy.core.sizes import parse_sizes

ONNX_RUNTIMES = tuple(name for name, provider in PROVIDERS.items() if provider.builds)
RUNTIMES = (*ONNX_RUNTIMES, *OPENVINO, *BUILDERS)
LOCAL_RUNTIMES = tuple(name for name in RUNTIMES if name not in TRTEXEC_RUNTIMES)
"""Runtimes whose engines are built only where they run, never by trtexec."""
PLACEMENTS = ("operators", "convolutions")
CHANNEL_QUANTISATION, HALF_QUANTISATION = 13, 19
"""The opsets since which QuantizeLinear takes a scale for each channel, and FP16."""
ACTIVATIONS, WEIGHTS = ("uint8", "int8"), ("int8", "float")


@dataclass(frozen=True)
class Int8Rules:
    """Where and how the INT8 graphs of a target are quantised."""

    placement: str
    """`operators`: at the inputs and outputs of all operators that have 8-bit kernels.
    `convolutions`: at the inputs of convolutions only."""
    activations: str
    """`uint8` or `int8`. Weights have a scale for each output channel, and are symmetric."""
    symmetric: bool
    """Whether the zero points of activations are 0 (128 of uint8)."""
    weights: str = "int8"
    """`int8`, with a DequantizeLinear; `float`, with a QuantizeLinear before it, as TensorRT 8
    reads no INT8 constants."""
    residuals: bool = False
    """Whether the skip input of a residual addition is quantised, where that of a convolution is
    the other and the sum goes into one. For the placement `convolutions`."""
    quantised_bias: bool = False
    """Whether biases are int32, in units of the product of both scales."""
    rest: str = "fp32"
    """Type of the tensors that are not quantised: `fp16` for strongly typed builders."""
    reduce_range: bool = False
    """Whether weights have 7 bits on CPUs without VNNI, where sums of products of 8 saturate."""
    transposed: bool = True
    """Whether transposed convolutions are quantised, for the placement `convolutions`."""
    group_multiple: int = 1
    """Grouped convolutions are quantised only if their number of groups is a multiple of this."""
    channel_multiple: int = 1
    """Grouped ones also only if the channels of each group are multiples of this."""


@dataclass(frozen=True)
class TargetProfile:
    """One board or GPU family."""

    name: str
    title: str
    runtime: str
    """The backend that builds and runs its engines, one of `RUNTIMES`."""
    runtime_versions: str
    """The versions the profile was written for, for example `>=8.5,<8.6`."""
    opset: int
    """The highest ONNX opset its parser reads correctly."""
    precisions: Tuple[str, ...]
    """Precisions of its engines; the first is the default."""
    fp16_graph: str
    """Data type of the graph that an FP16 engine is built from: `fp16` for strongly typed builders,
    `fp32` where a builder flag selects FP16."""
    io_dtype: str
    """Data type of the input and output of a graph for an FP16 engine."""
    shapes: Tuple[str, ...]
    """LR sizes exported by default: `256x512`, or one MIN:OPT:MAX for a dynamic graph."""
    compute_capabilities: Tuple[int, ...] = ()
    """SM versions, 72 for 7.2; empty for targets without a GPU, or for any GPU."""
    compute_capabilities_on_request: Tuple[int, ...] = ()
    """SM versions the builder supports but builds only if requested."""
    workspace_mib: int = 0
    dla_cores: int = 0
    power_modes: Dict[str, str] = field(default_factory=dict)
    """nvpmodel id -> name on this board."""
    forms: Dict[str, str] = field(default_factory=dict)
    """The fastest measured graph form by architecture or variant, for all precisions or one:
    {"asrn": "blocks-16", "asrn.d1": "plain", "asrn.int8": "blocks-8"}."""
    software: str = ""
    unsupported: Tuple[str, ...] = ()
    """Features the vendor does not, or no longer, support on this target."""
    int8: Optional[Int8Rules] = None
    """How its INT8 graphs are quantised; needed if `precisions` has int8."""

    def version_bounds(self) -> List[Tuple[str, Tuple[int, ...]]]:
        """Return `runtime_versions` as (`>=` or `<`, version) pairs. Raises TargetError."""
        bounds = []
        for bound in self.runtime_versions.split(","):
            match = re.fullmatch(r"(>=|<)([0-9]{1,6}(?:\.[0-9]{1,6}){0,3})", bound)
            if match is None:
                raise TargetError(
                    f"target '{self.name}': runtime_versions '{self.runtime_versions}'; "
                    "expected for example >=8.5,<8.6"
                )
            bounds.append((match[1], _version(match[2])))
        return bounds

    def supports_version(self, version: str) -> bool:
        """Whether a version of the runtime lies in `runtime_versions`. Raises TargetError."""
        number = _version(version)
        return all((number >= bound) == (sign == ">=") for sign, bound in self.version_bounds())

    def graph_dtype(self, precision: str) -> str:
        """Return the type of the tensors of a graph for an engine of a precision.

        Those of INT8 graphs are of it between their Q/DQ pairs.
        """
        if precision == "int8" and self.int8 is not None:
            return self.int8.rest
        return self.fp16_graph if precision == "fp16" else "fp32"

    @property
    def digest(self) -> str:
        """A short checksum of the profile. Artifacts made for another one are out of date."""
        return hashlib.sha256(to_json(self).encode()).hexdigest()[:12]

    @property
    def shipped(self) -> bool:
        """Whether it is the shipped profile of its name."""
        return self.name in target_names() and load_target(self.name) == self

    @property
    def recorded(self) -> Optional[Dict[str, object]]:
        """The profile as manifests of its engines contain it; None for a shipped one."""
        return None if self.shipped else asdict(self)

    @property
    def option(self) -> str:
        """The value of --target that names it."""
        return self.name if self.shipped else f"{self.name}.json"

    def check_precision(self, precision: Optional[str]) -> str:
        """Return `precision`; None: the default. Raises TargetError if it is not supported."""
        if precision is None:
            return self.precisions[0]
        if precision not in self.precisions:
            raise TargetError(
                f"target '{self.name}' builds {precisions_text(self.precisions)} engines, "
                f"not {precision}",
                hint=f"omit --precision, or give {self.precisions[0]}; {precision} engines are "
                f"built for {', '.join(targets_with(precision)) or 'no target'}",
            )
        return precision


def target_names() -> List[str]:
    """Return the names of all profiles, sorted."""
    return sorted(p.stem for p in data_folder("engines/targets").glob("*.json") if p.is_file())


def targets_with(precision: str) -> List[str]:
    """Return the names of the shipped targets that have engines of a precision."""
    return [name for name in target_names() if precision in load_target(name).precisions]


def load_target(name: str) -> TargetProfile:
    """Read a profile by its name, or by the path of its file, `NAME.json`.

    Raises TargetError if it is unknown or malformed.
    """
    if name.endswith(".json"):
        return read_target(Path(name))
    names = target_names()
    if name not in names:
        raise TargetError(
            f"unknown target '{name}'; expected one of {', '.join(names)}",
            hint=did_you_mean(name, names)
            or "a profile of your own is given as a path: ./NAME.json",
        )
    return read_target(data_folder("engines/targets") / f"{name}.json")


def read_target(path: Path) -> TargetProfile:
    """Read and validate a profile file. Raises TargetError naming file, line and problem."""
    profile = read_dataclass(TargetProfile, path, TargetError)
    for key, problem in _problems(profile, path.stem):
        raise TargetError(f"{at_line(path, key)}: {problem}")
    shipped_here = path.resolve().parent == data_folder("engines/targets").resolve()
    if not shipped_here and profile.name in target_names() and not profile.shipped:
        raise TargetError(
            f"{at_line(path, 'name')}: '{profile.name}' is a shipped target, and differs from this",
            hint="give your profile and its file another name: rows name the target only",
        )
    return profile


def _problems(profile: TargetProfile, stem: str) -> Iterator[Tuple[str, str]]:
    """Yield (key, problem) of each invalid value."""
    if profile.name != stem:
        yield "name", f"its name is '{profile.name}'; expected the file's name, '{stem}'"
    if profile.runtime not in RUNTIMES:
        yield "runtime", f"unknown runtime '{profile.runtime}'; expected {', '.join(RUNTIMES)}"
    for key, values, known in (
        ("precisions", profile.precisions, PRECISIONS),
        ("fp16_graph", (profile.fp16_graph,), GRAPH_DTYPES),
        ("io_dtype", (profile.io_dtype,), GRAPH_DTYPES),
    ):
        for precision in values:
            if precision not in known:
                yield key, f"{key} contains '{precision}'; expected {' or '.join(known)}"
    if ("int8" in profile.precisions) != (profile.int8 is not None):
        yield "int8", "int8: the rules of INT8 graphs are given if and only if precisions has int8"
    if profile.int8 is not None:
        yield from _int8_problems(profile, profile.int8)
    for shape in profile.shapes:
        try:
            parse_sizes(shape)
        except InputError as e:
            yield "shapes", f"shapes: {e.message}"
    for key, low, high in (("workspace_mib", 0, 2**20), ("dla_cores", 0, 8), ("opset", 7, 30)):
        if not low <= getattr(profile, key) <= high:
            yield key, f"{key} {getattr(profile, key)}; expected {low} to {high}"
    for key in ("compute_capabilities", "compute_capabilities_on_request"):
        if not all(50 <= sm <= 200 for sm in getattr(profile, key)):
            yield key, f"{key} {getattr(profile, key)}; expected for example 72 for SM 7.2"
    for key in ("title", "software"):
        if not getattr(profile, key).isprintable():
            yield key, f"{key} must be one line of text"
    for number, name in profile.power_modes.items():
        if not re.fullmatch("[0-9]{1,3}", number) or not isinstance(name, str):
            problem = "expected a number of nvpmodel and a name"
            yield "power_modes", f"power_modes: {problem}, found '{number}': {name!r}"
    if profile.runtime == "onnxruntime" and set(profile.precisions) - {"fp32", "int8"}:
        problem = "ONNX Runtime's CPU provider computes in FP32 and INT8 only"
        yield "precisions", f"{problem}: expected fp32 or int8"
    if profile.runtime == "tensorrt-rtx":
        if profile.fp16_graph != "fp16":
            yield "fp16_graph", "TensorRT for RTX is strongly typed: fp16_graph must be fp16"
        if not profile.compute_capabilities:
            key = "compute_capabilities"
            yield key, f"{key} must not be empty for TensorRT for RTX"
    for key in ("precisions", "shapes"):
        if not getattr(profile, key):
            yield key, f"{key} must not be empty"
    try:
        bounds = dict(profile.version_bounds())
    except TargetError as e:
        yield "runtime_versions", e.message
    else:
        if len(bounds) == 2 and bounds[">="] >= bounds["<"]:
            yield "runtime_versions", f"the range '{profile.runtime_versions}' is empty"


def _int8_problems(profile: TargetProfile, rules: Int8Rules) -> Iterator[Tuple[str, str]]:
    for key, known in (
        ("placement", PLACEMENTS),
        ("activations", ACTIVATIONS),
        ("weights", WEIGHTS),
        ("rest", GRAPH_DTYPES),
    ):
        if getattr(rules, key) not in known:
            problem = f"{key} is '{getattr(rules, key)}'; expected {' or '.join(known)}"
            yield "int8", f"int8: {problem}"
    for key in ("group_multiple", "channel_multiple"):
        if not 1 <= getattr(rules, key) <= 1024:
            yield "int8", f"int8: {key} is {getattr(rules, key)}; expected 1 to 1024"
    if profile.runtime not in TRTEXEC_RUNTIMES:
        return
    if rules.activations != "int8" or not rules.symmetric or rules.quantised_bias:
        expected = "expected activations int8, symmetric, and no quantised_bias"
        yield "int8", f"int8: TensorRT quantises symmetrically, to signed integers: {expected}"
    if rules.rest != profile.fp16_graph:
        yield "int8", f"int8: rest is {rules.rest}; expected fp16_graph, {profile.fp16_graph}"
    if rules.rest == "fp16" and profile.opset < HALF_QUANTISATION:
        problem = f"Q/DQ pairs of FP16 values need opset {HALF_QUANTISATION}"
        yield "opset", f"opset {profile.opset}; {problem}, for int8 with the rest in fp16"


def same_version(a: str, b: str) -> bool:
    """Whether two versions agree in the numbers that both have.

    trtexec's banner has three (8.5.2), Python's `__version__` four (8.5.2.2).
    """
    numbers = list(zip(_version(a), _version(b)))
    return len(numbers) > 1 and all(x == y for x, y in numbers)


def _version(text: str) -> Tuple[int, ...]:
    """1.7.1.116 -> (1, 7, 1, 116). A suffix (rc1, +cpu) is dropped."""
    return tuple(int(n) for n in re.findall(r"\d+", re.split(r"[+a-z]", text)[0]))
