"""A stand-in (test double) for torch.cuda on a torch without CUDA: its tensors stay on the CPU.

A captured graph is the list of the operators that ran, and a replay runs them again. Every copy or
network takes the events' clock 1 ms further.
"""

from __future__ import annotations

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sr_deploy.runtime import torch_device

GIB = 2**30


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result


class StandInTorchCuda:
    """One GPU or several. `calls` lists what was asked of them."""

    def __init__(self, monkeypatch, *, count=1, sm=(8, 6), archs=("sm_80", "sm_90"), failing=None):
        """failing: step -> exception, for `init`, `probe`, `capture` and `run`."""
        self.calls, self.now_ms, self.failing = [], 0.0, failing or {}
        self.free, self.total, self.peak = 6 * GIB, 8 * GIB, 3 * 2**20
        self.count, self.sm, self.archs = count, sm, archs
        self._left = {}
        stand_in = self

        class Event:
            def __init__(self, enable_timing=False, blocking=False):
                stand_in.calls.append("new event")

            def record(self, stream=None):
                self.at, stand_in.now_ms = stand_in.now_ms, stand_in.now_ms + 1

            def elapsed_time(self, end):
                return end.at - self.at

            def synchronize(self):
                pass

        class Stream:
            cuda_stream = 0

            def __init__(self, device=None):
                pass

            def wait_stream(self, other):
                pass

            def wait_event(self, event):
                pass

        class Graph:
            def replay(self):
                stand_in.calls.append("replay")
                for function, args, kwargs, result in self.calls:
                    again = function(*args, **kwargs)
                    if isinstance(result, torch.Tensor) and again is not result:
                        result.copy_(again)

        @contextlib.contextmanager
        def graph(captured, stream):
            before, self.stream = self.stream, stream
            stand_in._fail("capture")  # as in torch, the stream stays the current one then
            with _Recorder() as recorder:
                yield
            captured.calls, self.stream = recorder.calls, before

        @contextlib.contextmanager
        def current(stream):
            stand_in._fail("run")
            before, self.stream = self.stream, stream
            try:
                yield
            finally:
                self.stream = before

        @contextlib.contextmanager
        def nothing(*args):
            stand_in._fail("run")
            yield

        self.stream = Stream()
        fakes = {
            "init": lambda: stand_in._fail("init"),
            "device_count": lambda: self.count,
            "get_device_capability": lambda index: self.sm,
            "get_device_name": lambda index: (
                f"a stand-in GPU {index}" if index else "a stand-in GPU"
            ),
            "get_arch_list": lambda: list(self.archs),
            "Event": Event,
            "Stream": Stream,
            "ExternalStream": lambda handle, index: self.calls.append(handle) or Stream(),
            "current_stream": lambda index=None: self.stream,
            "set_stream": lambda stream: setattr(self, "stream", stream),
            "stream": current,
            "device": nothing,
            "CUDAGraph": Graph,
            "graph": graph,
            "synchronize": lambda index=None: self.calls.append("synchronize"),
            "empty_cache": lambda: self.calls.append("empty cache"),
            "reset_peak_memory_stats": lambda index: self.calls.append("reset peak"),
            "mem_get_info": lambda index: (self.free, self.total),
            "max_memory_allocated": lambda index: self.peak,
            "memory_reserved": lambda index: 0,
            "memory_allocated": lambda index: 0,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch_device, "TYPE", "cpu")
        monkeypatch.setattr(torch_device, "gpu_present", lambda: True)
        monkeypatch.setattr(
            torch_device, "compute_something", lambda index: stand_in._fail("probe")
        )
        monkeypatch.setattr(torch_device.CudaDevice, "used_on", lambda self, tensor, stream: None)
        monkeypatch.setattr(torch_device.CudaDevice, "pinned", lambda self, tensor: tensor)
        monkeypatch.setattr(
            torch_device.CudaDevice, "pinned_like", lambda self, tensor: torch.empty_like(tensor)
        )

    def fail_after(self, step, times, error):
        """Let `step` raise `error` from its call number `times` on."""
        self.failing[step] = error
        self._left[step] = times

    def late_copies(self, monkeypatch):
        """Copies to the host are made when the host waits for them, and counted in `waits`."""
        self.waits = 0
        stand_in = self

        def download(device, tensor):
            host = torch.full_like(tensor, 77)

            class Arrived:
                def synchronize(self):
                    stand_in.waits += 1
                    with torch.inference_mode():
                        host.copy_(tensor)

            return host, Arrived()

        monkeypatch.setattr(torch_device.CudaDevice, "download", download)

    def _fail(self, step):
        self._left[step] = self._left.get(step, 1) - 1
        if step in self.failing and self._left[step] <= 0:
            raise self.failing[step]
