"""Plans of adaptive networks: the files they consist of, and how their engines were built.

A plan is a JSON file beside its parts. Each part is an ONNX graph, or an engine of one runtime.
"""

from __future__ import annotations

import abc
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    ClassVar,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
)

from sr_deploy.core.errors import ArtifactError, InputError
from sr_deploy.core.files import write_hint
from sr_deploy.core.jsonio import from_dict, read_json
from sr_deploy.core.onnx_file import artifact_sha256
from sr_deploy.core.precisions import GRAPH_DTYPES, PRECISIONS

if TYPE_CHECKING:
    from sr_deploy.core.session import BackendInfo

P = TypeVar("P", bound="AdaptivePlan")
Part = Callable[..., List[Any]]
"""`part(lr=x, depth=d)` takes inputs by name and returns outputs in order: float arrays, or tensors
on a device where `OpenParts.info` has one that takes them."""
_LARGEST_SIDE = 16384


@dataclass(frozen=True)
class PlanPart:
    """One graph or engine. A shape has numbers and names of dimensions: `("N", 96, "H", "W")`."""

    file: str
    """Its name, in the folder of the plan."""
    sha256: str
    inputs: Dict[str, Tuple[Any, ...]]
    """The shape of each input by its name, in the order of the graph."""
    outputs: Dict[str, Tuple[Any, ...]]
    """Also with multiples of dimensions: `4*H`."""
    sizes: Dict[str, Tuple[int, int, int]] = field(default_factory=dict)
    """The smallest, usual and largest size of each dimension that the inputs name."""
    dtype: str = "fp32"
    """The type of the tensors within the graph."""
    dtypes: Dict[str, str] = field(default_factory=dict)
    """The types of inputs and outputs that are not FP32, by name."""
    opset: Optional[int] = None
    """Of a graph."""
    quantised: bool = False
    """Whether its graph has Q/DQ pairs."""

    def shapes(self, position: int) -> Dict[str, Tuple[int, ...]]:
        """Return the inputs' shapes at the smallest (0), usual (1) or largest (2) sizes."""
        return {
            name: tuple(self.sizes[n][position] if isinstance(n, str) else n for n in shape)
            for name, shape in self.inputs.items()
        }

    def output_shapes(self, inputs: Mapping[str, Sequence[int]]) -> Optional[List[Tuple[int, ...]]]:
        """Return the outputs' shapes for shapes of the inputs; None if these do not tell."""
        shapes = self.told_shapes(inputs)
        known = [shape for shape in shapes.values() if shape is not None]
        return known if len(known) == len(shapes) else None

    def told_shapes(
        self, inputs: Mapping[str, Sequence[int]]
    ) -> Dict[str, Optional[Tuple[int, ...]]]:
        """Return each output's shape for shapes of the inputs; None where these do not tell."""
        sizes = {
            n: size
            for name, shape in self.inputs.items()
            for n, size in zip(shape, inputs[name])
            if isinstance(n, str)
        }
        told: Dict[str, Optional[Tuple[int, ...]]] = {}
        for name, shape in self.outputs.items():
            found = [size_of(n, sizes) for n in shape]
            told[name] = None if None in found else tuple(n for n in found if n is not None)
        return told

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with it, as text."""
        if Path(self.file).name != self.file or not self.file.isprintable():
            yield f"the file name '{self.file[:60]}'"
        if not self.inputs or not self.outputs:
            yield f"{self.file} has no inputs or no outputs"
        named = {n for shape in self.inputs.values() for n in shape if isinstance(n, str)}
        if named != set(self.sizes):
            yield f"{self.file} has sizes for {_listed(self.sizes)}, expected {_listed(named)}"
        for name, sizes in self.sizes.items():
            if not (name.isidentifier() and 1 <= sizes[0] <= sizes[1] <= sizes[2] <= _LARGEST_SIDE):
                yield f"{self.file} has the sizes {sizes} of '{name[:20]}'"
        for name, shape in {**self.inputs, **self.outputs}.items():
            if not name.isprintable() or not all(map(_is_dimension, shape)):
                yield f"the shape of '{name[:40]}' in {self.file}"
        if self.dtype not in GRAPH_DTYPES:
            yield f"the type of {self.file}"
        for name, dtype in self.dtypes.items():
            if dtype not in GRAPH_DTYPES or name not in {**self.inputs, **self.outputs}:
                yield f"the type of '{name[:40]}' in {self.file}"


def size_of(n: Any, sizes: Mapping[str, int]) -> Optional[int]:
    """Return a number of a shape; of a name its size in `sizes`, None if it is not there."""
    if isinstance(n, int):
        return n
    times, _, name = n.rpartition("*")
    return sizes[name] * int(times or 1) if name in sizes else None


@dataclass(frozen=True)
class PartReceipt:
    """What a backend tells of an engine that it built of a part."""

    precision: str
    """What its layers compute in: `bf16`, `mixed: 9 fp16, 2 fp32`; empty if it has none that
    multiply, or it is not told."""
    layers: Dict[str, int]
    """The numbers of these layers by precision."""
    seconds: float
    facts: Dict[str, Any] = field(default_factory=dict)
    """What else the library tells."""
    not_checked: Tuple[str, ...] = ()


@dataclass(frozen=True)
class PlanEngine:
    """How the engines of a plan were built, and what in."""

    target: str
    runtime: str
    """The backend that built them and runs them."""
    precision_obtained: str
    """The lowest precision of the parts, as the runtime tells it: `bf16`, `mixed: 9 fp16, 2 fp32`;
    empty where it could not be read."""
    versions: Dict[str, str]
    """What the engines depend on, and `profile`, the checksum of the target's profile."""
    command: str
    """The command that made them."""
    graphs: Dict[str, str]
    """SHA-256 of the graph that each part was built from."""
    receipts: Dict[str, Dict[str, Any]] = field(default_factory=dict)
    """Of each part: precision, layers by precision, seconds, bytes."""
    profile: Optional[Dict[str, Any]] = None
    """The profile of a target that is not shipped."""
    not_checked: Tuple[str, ...] = ()


class AdaptivePlan(abc.ABC):
    """An exported adaptive network. Each kind is a frozen dataclass with these fields."""

    __dataclass_fields__: ClassVar[Dict[str, Any]]

    model: str
    scale: int
    parent_sha256: str
    """SHA-256 of the checkpoint's weights."""
    parts: Dict[str, PlanPart]
    """By role: `router`, `start`, `b4.everywhere`."""
    target: str
    """The target that its graphs were exported for; empty: for none."""
    precision: str
    """The precision that was asked for: that of the engines that are built from its graphs."""
    checks: Dict[str, Any]
    """Checks that were done, with their numbers."""
    engine: Optional[PlanEngine]
    """None: the parts are ONNX graphs."""

    @property
    def concurrent(self) -> Tuple[str, ...]:
        """The roles of parts that are called by several threads at once where a CPU runs them.

        Each call computes by one thread (see `BackendInfo.workers`): tiles are too small for more.
        """
        return ()

    @property
    @abc.abstractmethod
    def kind(self) -> str:
        """The part of its file's name that tells its kind: `NAME.KIND.json`."""

    @abc.abstractmethod
    def roles(self) -> List[str]:
        """Return the roles of its parts, in order."""

    @abc.abstractmethod
    def problems(self) -> Iterator[str]:
        """Yield what is inconsistent in the fields of its kind, as text."""

    @property
    def stem(self) -> str:
        """The start of the names of its files: the model, with a precision below FP32."""
        return self.model if self.precision == "fp32" else f"{self.model}.{self.precision}"

    @property
    def file_name(self) -> str:
        return f"{self.stem}.{self.kind}.json"

    @property
    def runtime(self) -> str:
        """The backend that runs it, unless another one is asked for."""
        return "onnxruntime" if self.engine is None else self.engine.runtime

    def precision_of(self, role: str) -> str:
        """Return the precision that is asked of a part's engine."""
        part = self.parts[role]
        return part.dtype if self.precision == "int8" and not part.quantised else self.precision

    @property
    def graph_precision(self) -> str:
        """The precision of its graphs; empty for FP32."""
        if self.precision == "int8":
            return "int8"
        return "fp16" if any(part.dtype == "fp16" for part in self.parts.values()) else ""

    @property
    def psnr_db_vs_fp32(self) -> Optional[float]:
        """The PSNR of its output against that of FP32 in dB, as its checks measured it.

        None: it was not measured, or it computes in FP32, which loses nothing.
        """
        if self.precision == "fp32":
            return None
        checks = (self.checks.get(name) for name in ("accuracy", "int8", "fp16"))
        found = [check.get("psnr_db_vs_fp32") for check in checks if isinstance(check, dict)]
        return min((float(n) for n in found if isinstance(n, (int, float))), default=None)

    def graph_name(self, role: str) -> str:
        """Return the name of a part's graph. Kinds of one model share those of equal roles."""
        return f"{self.stem}.{role}.onnx"

    def engine_name(self, role: str) -> str:
        """Return the name of a part's engine. Kinds of one model share none."""
        return f"{self.stem}.{self.kind}.{role}.engine"


def read_plan_file(cls: Type[P], path: Path) -> P:
    """Read a plan of a kind. Raises ArtifactError if missing, malformed or inconsistent."""
    if not path.is_file():
        raise ArtifactError(f"there is no file {path}")
    data = read_json(path, ArtifactError)
    if "graphs" in data:
        raise ArtifactError(
            f"{path} was written by an older version, which did not record the tensors of its "
            "parts",
            hint=_AGAIN,
        )
    plan = from_dict(cls, data, source=str(path), error=ArtifactError)
    for problem in (*plan.problems(), *_problems(plan)):
        raise ArtifactError(f"{path} is not a valid plan: {problem[:200]}", hint=_AGAIN)
    return plan


def check_part_files(path: Path, plan: AdaptivePlan) -> None:
    """Raise ArtifactError if a part of the plan at `path` is missing or was changed."""
    for part in plan.parts.values():
        file = path.parent / part.file
        if not file.is_file():
            raise ArtifactError(f"{path} names {part.file}, which does not exist", hint=_AGAIN)
        if artifact_sha256(file) != part.sha256:
            raise ArtifactError(f"{file} was changed after its plan was written", hint=_AGAIN)


def publish_parts(temporary: Path, folder: Path, plan: AdaptivePlan) -> None:
    """Move the files of a plan from a temporary folder beside `folder` or in it: the plan last.

    The old plan is removed before. Raises InputError.
    """
    target = folder / plan.file_name
    try:
        if target.exists():
            target.unlink()
        for file in (*(part.file for part in plan.parts.values()), plan.file_name):
            os.replace(temporary / file, folder / file)
    except OSError as e:
        raise InputError(f"cannot write {target}: {e.strerror or e}", hint=write_hint(e)) from e


_AGAIN = "export it again: srdeploy export MODEL --adaptive -o DIR"


@dataclass(frozen=True)
class OpenParts:
    """The parts of a plan, ready to run."""

    parts: Dict[str, Part]
    """By role, in the plan's order."""
    info: BackendInfo


def _problems(plan: AdaptivePlan) -> Iterator[str]:
    if not (plan.model.isprintable() and Path(plan.model).name == plan.model):
        yield f"the model '{plan.model[:60]}'"
    if not 1 <= plan.scale <= 16:
        yield f"the scale {plan.scale}"
    if plan.precision not in PRECISIONS:
        yield f"the precision '{plan.precision[:20]}'"
    if list(plan.parts) != plan.roles():
        yield f"its parts are {_listed(plan.parts)}; expected {_listed(plan.roles())}"
    files = [part.file for part in plan.parts.values()]
    if len(set(files)) < len(files):
        yield "two parts are the same file"
    for part in plan.parts.values():
        yield from part.problems()


def _is_dimension(n: Any) -> bool:
    if isinstance(n, str):
        return re.fullmatch(r"([1-9][0-9]?\*)?[A-Za-z_][A-Za-z0-9_]{0,30}", n) is not None
    return type(n) is int and 1 <= n <= _LARGEST_SIDE * 16


def _listed(names: Any) -> str:
    return ", ".join(sorted(map(str, names))) or "none"
