"""TensorRT on the board or GPU itself. Its engines hold for one GPU and one version, so they are built where they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

from sr_deploy.core.errors import BuildError, CannotRunHereError
from sr_deploy.core.manifest import Manifest
from sr_deploy.core.session import Backend, Session
from sr_deploy.core.target import TargetProfile


class TensorRTBackend(Backend):
    """Names what is missing. Building by TensorRT's Python API, by trtexec and over SSH is not part of this version."""

    name = package = "tensorrt"

    def why_unavailable(self, target: TargetProfile) -> str:
        gpu = ", ".join(f"SM {c / 10:.1f}" for c in target.compute_capabilities) or "this machine's GPU"
        return (
            f"engines for it are built by TensorRT {target.runtime_versions} on the device that runs them ({gpu}), "
            "and this version of srdeploy cannot build there yet"
        )

    def by_hand(self, onnx: Path, graph: Manifest) -> str:
        flags = [f"--onnx={onnx.name}"]
        if graph.precision_asked == "fp16" and graph.precision_obtained == "fp32":
            flags.append("--fp16")
        if graph.precision_obtained == "fp16":
            flags.append("--stronglyTyped")
        if graph.dynamic:
            for word, hw in (("min", graph.min_shape), ("opt", graph.opt_shape), ("max", graph.max_shape)):
                flags.append(f"--{word}Shapes={graph.input_name}:1x3x{hw[0]}x{hw[1]}")
        name = f"{onnx.stem.rpartition('.')[0]}.{graph.precision_asked}.engine"
        return (
            f"copy {onnx.name} there and run trtexec (on a Jetson in /usr/src/tensorrt/bin): trtexec {' '.join(flags)} --saveEngine={name}"
        )

    def versions(self) -> Dict[str, str]:
        return {}

    def build(self, onnx: Path, graph: Manifest, target: TargetProfile, temporary: Path, options: Any) -> Manifest:
        raise BuildError(f"cannot build for '{target.name}' here: {self.why_unavailable(target)}", hint=self.by_hand(onnx, graph))

    def open(self, artifact: Path, manifest: Manifest) -> Session:
        raise CannotRunHereError(f"it needs the GPU of target '{manifest.target}', and this version of srdeploy cannot run it yet")
