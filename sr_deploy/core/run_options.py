"""`RunOptions`: the device that runs a network, and how torch drives it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import List, Optional

from sr_deploy.core.errors import InputError
from sr_deploy.core.providers import (
    BUILDERS,
    OPENVINO,
    TORCH,
    Provider,
    default_provider,
    find_provider,
)

DEVICE_KINDS = ("cpu", "cuda", "directml", "coreml", "xpu")
"""`xpu`: a GPU of Intel's, which OpenVINO uses."""
RUN_PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Device:
    """A device by its kind and number: `cpu`, `cuda:0`."""

    kind: str = "cpu"
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind in ("cpu", "coreml") else f"{self.kind}:{self.index}"


def parse_device(text: str) -> Device:
    """Parse `cpu`, `cuda` or `cuda:1`. Raises InputError on anything else."""
    match = re.fullmatch(r"([a-z]+)(?::([0-9]{1,3}))?", text)
    if match is None or match[1] not in DEVICE_KINDS or (match[2] and match[1] == "cpu"):
        raise InputError(
            f"unknown device '{text}'; expected cpu, cuda, cuda:N, directml, coreml or xpu",
            hint="omit --device for the GPU where there is one, else the CPU",
        )
    return Device(match[1], int(match[2] or 0))


@dataclass(frozen=True)
class RunOptions:
    """Where and how networks run. Raises InputError on invalid or contradictory values.

    >>> run = sr_deploy.RunOptions(min_psnr_vs_fp32=50)
    >>> with sr_deploy.session_of("fsrcnn-w16_x4", run=run) as session:
    ...     session.psnr_db_vs_fp32 is None or session.psnr_db_vs_fp32 >= 50
    True
    """

    device: Optional[str] = None
    """`cpu`, `cuda`, `cuda:N` or another of `DEVICE_KINDS`; None: the GPU if the network's library
    can use one, else the CPU."""
    runtime: Optional[str] = None
    """`torch`, or what runs ONNX graphs, a name in `PROVIDERS` or `OPENVINO`; None: of a model the
    fastest here (see `sr_deploy.fast`), of a graph the default provider of the device."""
    precision: Optional[str] = None
    """Of checkpoints, run by torch: fp32, fp16 or bf16; None: fp32."""
    channels_last: bool = False
    """torch stores feature maps as NHWC."""
    compile: bool = False
    """torch.compile."""
    cuda_graph: bool = False
    """torch replays a captured CUDA graph; another size is captured anew."""
    min_psnr_vs_fp32: Optional[float] = None
    """The least PSNR in dB of the output against that of FP32. Models run in the fastest precision
    whose engine was measured to reach it, at last in FP32. None: in each target's own: FP32
    on CPUs, FP16 on GPUs. Graphs and engines run as they are, and are refused where their
    manifest has less, or no such number."""
    harness: bool = False
    """As NTIRE's harnesses leave torch on CUDA: convolutions may round to TF32, autograd is on."""

    def __post_init__(self) -> None:
        device, provider = self.requested_device, self.requested_provider
        needed = OPENVINO.get(self.runtime or "", provider.device if provider else None)
        if needed is not None and device is not None and needed != device.kind:
            raise InputError(
                f"the runtime {self.runtime} runs on {needed}, not on {device}",
                hint="omit --device or --runtime",
            )
        if self.precision not in (None, *RUN_PRECISIONS):
            raise InputError(
                f"unknown precision '{self.precision}'; expected {', '.join(RUN_PRECISIONS)}"
            )
        self._check_bound()
        if self.cuda_graph and device is not None and device.kind != "cuda":
            raise InputError(
                f"--cuda-graph needs an NVIDIA GPU, but the device is {device}",
                hint="omit --cuda-graph, or give --device cuda",
            )

    def _check_bound(self) -> None:
        if self.min_psnr_vs_fp32 is None:
            return
        if not 0 < self.min_psnr_vs_fp32 < float("inf"):
            raise InputError(
                f"--min-psnr-vs-fp32 {self.min_psnr_vs_fp32:g}: expected dB above 0, such as 50"
            )
        if self.precision not in (None, "fp32"):
            raise InputError(
                f"--precision {self.precision} is for torch, whose loss is not measured, but "
                "--min-psnr-vs-fp32 bounds it",
                hint="omit one of them",
            )

    @property
    def requested_device(self) -> Optional[Device]:
        return None if self.device is None else parse_device(self.device)

    @property
    def requested_provider(self) -> Optional[Provider]:
        """ONNX Runtime's provider that the runtime or the device asks for."""
        if self.requested_openvino is not None:
            return None
        if self.runtime is not None and self.runtime not in (TORCH, *BUILDERS):
            return find_provider(self.runtime)
        device = self.requested_device
        return None if device is None else default_provider(device.kind)

    @property
    def requested_openvino(self) -> Optional[str]:
        """OpenVINO's runtime that the runtime or the device asks for."""
        if self.runtime is not None:
            return self.runtime if self.runtime in OPENVINO else None
        device = self.requested_device
        return "openvino-gpu" if device is not None and device.kind == "xpu" else None

    @property
    def torch_settings(self) -> List[str]:
        """The names of the given options that only torch has."""
        names = ("precision", "channels_last", "compile", "cuda_graph")
        return [name.replace("_", "-") for name in names if getattr(self, name)]


DEFAULT_RUN = RunOptions()
CPU_RUN = RunOptions(device="cpu")
