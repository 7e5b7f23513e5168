"""`RunOptions`: the device that runs a network, and how torch drives it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import List, Optional

from sr_deploy.core.errors import InputError
from sr_deploy.core.providers import BUILDERS, TORCH, Provider, default_provider, find_provider

DEVICE_KINDS = ("cpu", "cuda", "directml", "coreml")
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
            f"unknown device '{text}'; expected cpu, cuda, cuda:N, directml or coreml",
            hint="omit --device for the GPU where there is one, else the CPU",
        )
    return Device(match[1], int(match[2] or 0))


@dataclass(frozen=True)
class RunOptions:
    """Where and how networks run. Raises InputError on invalid or contradictory values."""

    device: Optional[str] = None
    """`cpu`, `cuda` or `cuda:N`; None: the GPU if the network's library can use one, else CPU."""
    runtime: Optional[str] = None
    """`torch`, or what runs ONNX graphs, a name in `PROVIDERS`; None: of a model the fastest here
    (see `sr_deploy.fast`), of a graph the default provider of the device."""
    precision: Optional[str] = None
    """Of checkpoints, run by torch: fp32, fp16 or bf16; None: fp32."""
    channels_last: bool = False
    """torch stores feature maps as NHWC."""
    compile: bool = False
    """torch.compile."""
    cuda_graph: bool = False
    """torch replays a captured CUDA graph; another size is captured anew."""
    harness: bool = False
    """As NTIRE's harnesses leave torch on CUDA: convolutions may round to TF32, autograd is on."""

    def __post_init__(self) -> None:
        device, provider = self.requested_device, self.requested_provider
        if provider is not None and device is not None and provider.device != device.kind:
            raise InputError(
                f"the runtime {provider.backend} runs on {provider.device}, not on {device}",
                hint="omit --device or --runtime",
            )
        if self.precision not in (None, *RUN_PRECISIONS):
            raise InputError(
                f"unknown precision '{self.precision}'; expected {', '.join(RUN_PRECISIONS)}"
            )
        if self.cuda_graph and device is not None and device.kind != "cuda":
            raise InputError(
                f"--cuda-graph needs an NVIDIA GPU, but the device is {device}",
                hint="omit --cuda-graph, or give --device cuda",
            )

    @property
    def requested_device(self) -> Optional[Device]:
        return None if self.device is None else parse_device(self.device)

    @property
    def requested_provider(self) -> Optional[Provider]:
        """ONNX Runtime's provider that the runtime or the device asks for."""
        if self.runtime is not None and self.runtime not in (TORCH, *BUILDERS):
            return find_provider(self.runtime)
        device = self.requested_device
        return None if device is None else default_provider(device.kind)

    @property
    def torch_settings(self) -> List[str]:
        """The names of the given options that only torch has."""
        names = ("precision", "channels_last", "compile", "cuda_graph")
        return [name.replace("_", "-") for name in names if getattr(self, name)]


DEFAULT_RUN = RunOptions()
CPU_RUN = RunOptions(device="cpu")
