"""A stand-in (test double) for onnxruntime-gpu on a machine with GPUs.

The real onnxruntime runs everything on the CPU; the stand-in says that a provider of GPUs ran it,
in `get_providers` and in the profile. Memory of a GPU is an array with an owner.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"


class RunError(Exception):
    """As onnxruntime's errors, which share no base class of their own."""


class StandInOrtCuda:
    """Installs itself as the module onnxruntime. `sessions` lists those that were opened."""

    def __init__(self, monkeypatch, *, count=1, available=(TENSORRT, CUDA), half=False, **failing):
        """half: the graphs are in FP16. failing: `ignored` (the provider is not used), `reopened`
        (with other options), `on_cpu` (names of nodes), and `run`, `open` and `device` (messages of
        errors)."""
        import onnxruntime as real

        self.failing, self.sessions, self.count, self.probed = failing, [], count, False
        stand_in = self

        class Value:
            def __init__(self, array):
                self.array, self.copies = array, 0

            def update_inplace(self, array):
                assert array.dtype == self.array.dtype and array.flags.c_contiguous
                self.array[...] = array

            def numpy(self):
                return self.array.copy()

        class OrtValue:
            @staticmethod
            def ortvalue_from_shape_and_type(shape, dtype, device, index):
                stand_in.probed = True
                if "device" in failing or index >= stand_in.count:
                    raise RunError(
                        failing.get("device", "CUDA failure 101: invalid device ordinal")
                    )
                assert device == "cuda"
                return Value(np.zeros(shape, dtype))

        class Binding:
            def __init__(self, session):
                self.session, self.ends = session, {}

            def bind_ortvalue_input(self, name, value):
                self.ends[name] = value.array

            bind_ortvalue_output = bind_ortvalue_input

            def bind_input(self, name, device, index, dtype, shape, address):
                ctype = np.ctypeslib.as_ctypes_type(np.uint8)
                size = int(np.prod(shape)) * np.dtype(dtype).itemsize
                memory = (ctype * size).from_address(address)
                self.ends[name] = np.frombuffer(memory, dtype).reshape(shape)
                self.session.bound.append((name, device, index))

            def bind_output(self, name, device, *place):
                if place:
                    self.bind_input(name, device, *place)
                else:
                    assert device == "cpu"
                    self.ends[name] = None

            def get_outputs(self):
                return [Value(self.ends[end.name]) for end in self.session.get_outputs()]

            def synchronize_outputs(self):
                pass

        class InferenceSession:
            def __init__(self, model, options, *, providers, enable_fallback):
                assert enable_fallback == 0
                if "open" in failing:
                    raise RunError(failing["open"])
                names = [p if isinstance(p, str) else p[0] for p in providers]
                self.asked = providers
                for _, given in (p for p in providers if isinstance(p, tuple)):
                    # Parsed by Python's binding, unlike those of the CUDA provider.
                    assert given.get("trt_fp16_enable", "True") in ("True", "False")
                if names != [CPU]:  # no layouts of the CPU's own
                    level = real.GraphOptimizationLevel.ORT_ENABLE_BASIC
                    options.graph_optimization_level = level
                self.names = [CPU] if "ignored" in failing else [*names, CPU]
                self.real = real.InferenceSession(model, options, providers=[CPU])
                self.bound, self.asynchronous = [], 0
                stand_in.sessions.append(self)

            def __getattr__(self, name):
                return getattr(self.real, name)

            def get_providers(self):
                return list(dict.fromkeys(self.names))

            def get_provider_options(self):
                given = dict(p for p in self.asked if isinstance(p, tuple))
                if "reopened" in failing:
                    given[CUDA] = {"use_tf32": "1"}
                return {name: given.get(name, {}) for name in self.get_providers()}

            def io_binding(self):
                return Binding(self) if self.names[0] != CPU else self.real.io_binding()

            def run(self, names, feeds, options=None):
                stand_in._fail("run")
                return self.real.run(names, feeds)

            def run_with_iobinding(self, binding, options=None):
                stand_in._fail("run")
                self.asynchronous += options is not None
                if not isinstance(binding, Binding):
                    return self.real.run_with_iobinding(binding)
                feeds = {end.name: binding.ends[end.name] for end in self.real.get_inputs()}
                results = self.real.run(None, feeds)
                for end, result in zip(self.real.get_outputs(), results):
                    if binding.ends[end.name] is None:
                        binding.ends[end.name] = result
                    binding.ends[end.name][...] = result
                return None

            def end_profiling(self):
                path = Path(self.real.end_profiling())
                events = json.loads(path.read_text())
                events = [e for e in events if not e["name"].startswith("Inserted")]
                for event in events:
                    arguments = event.get("args") or {}
                    if "provider" in arguments:
                        stays = event["name"].replace("_kernel_time", "") in failing.get(
                            "on_cpu", ()
                        )
                        arguments["provider"] = CPU if stays else self.names[0]
                        # The CPU computes FP16 graphs in FP32, between casts that it inserts.
                        for result in arguments["output_type_shape"] if half else ():
                            if "float" in result:
                                result["float16"] = result.pop("float")
                path.write_text(json.dumps(events))
                return str(path)

        module = types.ModuleType("onnxruntime")
        module.__dict__.update(
            {
                name: getattr(real, name)
                for name in dir(real)
                if not name.startswith("__") or name in ("__version__", "__file__")
            }
        )
        module.cuda_version = "13.0"
        module.preload_dlls = lambda: sys.stdout.write("Failed to load a library\n")
        module.get_available_providers = lambda: [*available, CPU]
        module.OrtValue, module.InferenceSession = OrtValue, InferenceSession
        monkeypatch.setitem(sys.modules, "onnxruntime", module)
        self.module = module

    def _fail(self, step):
        if step in self.failing:
            raise RunError(self.failing[step])
