"""Target profiles: what each board or GPU family runs, one JSON file each in `engines/targets/`."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from sr_deploy.core.errors import InputError, TargetError, did_you_mean
from sr_deploy.core.files import data_folder
from sr_deploy.core.jsonio import at_line, from_dict, read_json, to_json
from sr_deploy.core.sizes import parse_sizes

RUNTIMES = ("onnxruntime", "tensorrt", "tensorrt-rtx")
PRECISIONS = ("fp32", "fp16")


@dataclass(frozen=True)
class TargetProfile:
    """One board or GPU family."""

    name: str
    title: str
    runtime: str
    """Which backend builds and runs its engines: onnxruntime, tensorrt or tensorrt-rtx."""
    runtime_versions: str
    """The versions it was written for, `>=8.5,<8.6`."""
    opset: int
    """The highest ONNX opset its parser reads correctly."""
    precisions: Tuple[str, ...]
    """Of the engine; the first is the default."""
    fp16_graph: str
    """Tensors of the graph an FP16 engine is built from: `fp16` where typing is strong, `fp32` where a flag decides."""
    io_dtype: str
    """Tensors at the graph's input and output for an FP16 engine."""
    shapes: Tuple[str, ...]
    """LR sizes exported by default: `256x512`, or one MIN:OPT:MAX for a dynamic graph."""
    compute_capabilities: Tuple[int, ...] = ()
    """SM versions, 72 for 7.2; empty where there is none."""
    compute_capabilities_on_request: Tuple[int, ...] = ()
    """Further ones the builder knows, built only when named."""
    workspace_mib: int = 0
    dla_cores: int = 0
    power_modes: Dict[str, str] = field(default_factory=dict)
    """nvpmodel id -> name, by this board's own numbering."""
    forms: Dict[str, str] = field(default_factory=dict)
    """The form that was measured to be fastest here, of an architecture or of one variant: {"asrn": "blocks-16"}."""
    software: str = ""
    unsupported: Tuple[str, ...] = ()
    """What the vendor does not, or no longer, support here."""

    def supports_version(self, version: str) -> bool:
        """Tell whether a runtime's version lies in `runtime_versions`. Raises TargetError when that range is malformed."""
        number = _version(version)
        for bound in self.runtime_versions.split(","):
            match = re.fullmatch(r"(>=|<)([0-9]{1,6}(?:\.[0-9]{1,6}){0,3})", bound)
            if match is None:
                raise TargetError(
                    f"target '{self.name}': runtime_versions '{self.runtime_versions}': expected such as >=8.5,<8.6"
                )
            if (number >= _version(match[2])) != (match[1] == ">="):
                return False
        return True

    @property
    def digest(self) -> str:
        """A short checksum of everything in the profile: what was made for another state of it is not up to date."""
        return hashlib.sha256(to_json(self).encode()).hexdigest()[:12]

    def check_precision(self, precision: Optional[str]) -> str:
        """Return the precision asked for, the target's default for None. Raises TargetError when it has no such."""
        if precision is None:
            return self.precisions[0]
        if precision not in self.precisions:
            raise TargetError(
                f"target '{self.name}' builds {' and '.join(self.precisions)} engines, not {precision}",
                hint=f"leave --precision out, or give {self.precisions[0]}",
            )
        return precision


def target_names() -> List[str]:
    """Return the names of all profiles, sorted."""
    return sorted(p.stem for p in data_folder("engines/targets").glob("*.json") if p.is_file())


def load_target(name: str) -> TargetProfile:
    """Read a profile by its name. Raises TargetError when it is unknown (nothing is substituted) or malformed."""
    names = target_names()
    if name not in names:
        raise TargetError(
            f"unknown target '{name}'; known are {', '.join(names)}", hint=did_you_mean(name, names)
        )
    return read_target(data_folder("engines/targets") / f"{name}.json")


def read_target(path: Path) -> TargetProfile:
    """Read and validate one profile file. Raises TargetError naming the file, the line and what is wrong in it."""
    profile = from_dict(TargetProfile, read_json(path, TargetError), source=path, error=TargetError)

    def refuse(key: str, problem: str) -> None:
        raise TargetError(f"{at_line(path, key)}: {problem}")

    if profile.name != path.stem:
        refuse("name", f"its name is '{profile.name}', expected the file's own, '{path.stem}'")
    if profile.runtime not in RUNTIMES:
        refuse("runtime", f"runtime '{profile.runtime}' is unknown; expected {', '.join(RUNTIMES)}")
    for key in ("precisions", "fp16_graph", "io_dtype"):
        value = getattr(profile, key)
        for precision in (value,) if isinstance(value, str) else value:
            if precision not in PRECISIONS:
                refuse(key, f"{key} holds '{precision}'; expected fp32 or fp16")
    for shape in profile.shapes:
        try:
            parse_sizes(shape)
        except InputError as e:
            refuse("shapes", f"shapes: {e.message}")
    for key, most in (("workspace_mib", 2**20), ("dla_cores", 8)):
        if not 0 <= getattr(profile, key) <= most:
            refuse(key, f"{key} {getattr(profile, key)}; expected 0 to {most}")
    for key in ("compute_capabilities", "compute_capabilities_on_request"):
        if not all(50 <= sm <= 200 for sm in getattr(profile, key)):
            refuse(key, f"{key} {getattr(profile, key)}; expected such as 72 for SM 7.2")
    for key in ("title", "software"):
        if not getattr(profile, key).isprintable():
            refuse(key, f"{key} must be one line of text")
    if profile.runtime == "tensorrt-rtx" and profile.fp16_graph != "fp16":
        refuse("fp16_graph", "TensorRT for RTX is strongly typed: fp16_graph must be fp16")
    if not 7 <= profile.opset <= 30:
        refuse("opset", f"opset {profile.opset}; expected 7 to 30")
    for number, name in profile.power_modes.items():
        if not re.fullmatch("[0-9]{1,3}", number) or not isinstance(name, str):
            refuse(
                "power_modes",
                f"power_modes: expected nvpmodel's number and name, found '{number}': {name!r}",
            )
    if profile.runtime == "tensorrt-rtx" and not profile.compute_capabilities:
        refuse(
            "compute_capabilities", "compute_capabilities must not be empty for TensorRT for RTX"
        )
    try:
        profile.supports_version("0")
    except TargetError as e:
        refuse("runtime_versions", e.message)
    bounds = {
        sign: _version(number)
        for sign, number in re.findall(r"(>=|<)([0-9.]+)", profile.runtime_versions)
    }
    if ">=" in bounds and "<" in bounds and bounds[">="] >= bounds["<"]:
        refuse("runtime_versions", f"no version is in '{profile.runtime_versions}'")
    for key in ("precisions", "shapes"):
        if not getattr(profile, key):
            refuse(key, f"{key} must not be empty")
    return profile


def _version(text: str) -> Tuple[int, ...]:
    """1.7.1.116 -> (1, 7, 1, 116); what follows the numbers (rc1, +cpu) is left out."""
    return tuple(int(n) for n in re.findall(r"\d+", re.split(r"[+a-z]", text)[0]))
