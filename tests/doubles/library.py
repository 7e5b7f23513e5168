"""Stand-ins (test doubles) for TensorRT's Python library and CUDA, without a GPU or TensorRT.

They fail like the real ones, by returning None or False, and lack what the declared version lacks.
onnxruntime runs the engines.
"""

from __future__ import annotations

import base64
import json
import types
import weakref

import numpy as np

from sr_deploy.runtime.cuda import CapturedGraph, Cuda


class Knows:
    """Has every attribute."""

    def __getattr__(self, name):
        return name


def severity(name):
    return types.SimpleNamespace(name=name)


def stand_in_tensorrt(version="8.5.2.2", *, name="tensorrt", layer_types=("HALF",), **failing):
    """Return a module that builds and runs like `version`. failing: steps and their results."""
    major = int(version.split(".")[0])
    strong = name == "tensorrt_rtx" or major >= 11 or failing.get("dtype") == "HALF"
    io_dtype = failing.get("io_dtype", "FLOAT")
    io = np.float16 if io_dtype == "HALF" else np.float32

    class Parser:
        num_errors = 0

        def __init__(self, network, log):
            self.network = network

        def parse_from_file(self, path):
            self.network.path = path
            return failing.get("parse", True)

    class Config:
        num_compute_capabilities = 0
        profiling_verbosity = None

        def __init__(self):
            self.flags = {"TF32"}

        def set_memory_pool_limit(self, pool, size):
            pass

        def set_flag(self, flag):
            self.flags.add(flag)

        def clear_flag(self, flag):
            self.flags.discard(flag)

        def set_compute_capability(self, capability, index):
            return failing.get("set_compute_capability", True)

        def add_optimization_profile(self, profile):
            return failing.get("profile", 0)

        def create_timing_cache(self, blob):
            return failing.get("timing_cache", types.SimpleNamespace(blob=bytes(blob)))

        def set_timing_cache(self, cache, ignore_mismatch):
            self.cache = cache
            return cache.blob in (b"", version.encode())

        def get_timing_cache(self):
            return types.SimpleNamespace(serialize=lambda: version.encode())

        tactic_sources = 0b11111

        def get_tactic_sources(self):
            return self.tactic_sources

        def set_tactic_sources(self, mask):
            self.tactic_sources = mask
            return failing.get("tactic_sources", True)

        def can_run_on_DLA(self, layer):  # noqa: N802
            return "shuffle" not in layer.name

    class Layer:
        type, num_outputs, num_inputs, precision = "CONVOLUTION", 1, 1, None

        def __init__(self, layer_name, dtype):
            self.name, self.dtype, self.precision = layer_name, dtype, None

        def get_output(self, index):
            return types.SimpleNamespace(dtype=severity(self.dtype), name=self.name)

        def set_output_type(self, index, dtype):
            assert index == 0

    class Network:
        path = None

        def __init__(self, flags):
            self.flags = flags
            self.layers = [
                Layer(n, failing.get("dtype", "HALF" if strong else "FLOAT"))
                for n in failing.get("layers", ("conv", "shuffle"))
            ]
            self.num_layers = len(self.layers)

        def get_layer(self, index):
            return self.layers[index]

    class Builder:
        num_DLA_cores = 2  # noqa: N815

        def __init__(self, log):
            self.log = log
            library.builders.append(self)
            if failing.get("builder") == "no driver":
                log.log(severity("ERROR"), "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def create_network(self, flags):
            return failing.get("network", Network(flags))

        def create_builder_config(self):
            self.config = failing.get("config", Config())
            return self.config

        def create_optimization_profile(self):
            return types.SimpleNamespace(set_shape=lambda *args: None)

        def build_serialized_network(self, network, config):
            self.network = network
            self.log.log(severity("INFO"), "chatter")
            if "plan" in failing:
                self.log.log(severity("ERROR"), "the tactic ran off")
                return failing["plan"]
            with open(network.path, "rb") as f:
                graph = f.read()
            lacking = [n for n in failing.get("no_kernel", ()) if f"{n}_x_dq".encode() in graph]
            lacking += [failing["lacking"]] if "lacking" in failing else []
            if lacking:
                message = f"node {lacking[0]}_weight + {lacking[0]} + PWN(activation)."
                self.log.log(
                    severity("ERROR"),
                    "[optimizer.cpp::computeCosts::3728] Error Code 10: Internal Error "
                    f"(Could not find any implementation for {message})",
                )
                return None
            head = b"vtrt" if name == "tensorrt_rtx" else b"ftrt"
            return (
                head
                + bytes(36)
                + json.dumps(
                    {
                        "graph": base64.b64encode(graph).decode(),
                        "fp16": strong or "FP16" in config.flags,
                        "int8": "INT8" in config.flags,
                    }
                ).encode()
            )

    class Inspector:
        """Does not keep its engine and context alive, as the bindings of 8.2 to 8.5."""

        def __init__(self, engine):
            self.plan, self.dynamic = engine.plan, failing.get("dynamic", False)
            self.engine, self.context = weakref.ref(engine), lambda: None

        execution_context = property(None, lambda self, c: setattr(self, "context", weakref.ref(c)))

        def get_engine_information(self, form):
            assert self.engine() is not None, "the engine was destroyed before it was read"
            if self.dynamic and self.context() is None:
                return json.dumps({"Layers": ["conv0", "conv1"], "Bindings": ["lr", "sr"]})
            if "inspector" in failing:
                return failing["inspector"]
            types_of = (
                [{"HALF": "Half", "FLOAT": "FP32"}.get(t, t) for t in layer_types]
                if self.plan["fp16"]
                else ["FP32"]
            )
            tensors = [
                [{"Name": "x", "Format/Datatype": f"Row major linear {kind} format"}]
                for kind in types_of
            ]
            layers = [
                {"Name": f"conv{i}", "LayerType": "Convolution", "Inputs": t, "Outputs": t}
                for i, t in enumerate(tensors)
            ]
            return json.dumps({"Layers": layers, "Bindings": ["lr", "sr"]})

    class Context:
        def __init__(self, engine):
            self.engine, self.addresses, self.shapes = engine, {}, {}

        def set_input_shape(self, tensor, shape):
            self.shapes[tensor] = tuple(shape)
            return failing.get("set_input_shape", True)

        def get_tensor_shape(self, tensor):
            feeds = {name: np.zeros(shape, io) for name, shape in self.shapes.items()}
            return self.engine.run(feeds)[tensor].shape

        def set_tensor_address(self, tensor, address):
            self.addresses[tensor] = address
            return failing.get("set_tensor_address", True)

        def execute_async_v3(self, stream):
            if failing.get("execute") is False:
                self.engine.log.log(severity("ERROR"), "illegal memory access")
                return False
            gpu = library.gpu
            gpu.enqueued.append("network")
            feeds = {}
            for name, shape in self.shapes.items():
                size = int(np.prod(shape)) * np.dtype(io).itemsize
                memory = gpu.bytes_at(self.addresses[name])[:size]
                feeds[name] = memory.view(io).reshape(shape)
            for name, result in self.engine.run(feeds).items():
                y = failing.get("output", lambda y: y)(result).astype(io).view(np.uint8).ravel()
                gpu.bytes_at(self.addresses[name])[: len(y)] = y
            return True

    class RuntimeConfig:
        cuda_graph_strategy = "DISABLED"
        dynamic_shapes_kernel_specialization_strategy = "LAZY"

    class Engine:
        def __init__(self, plan, log):
            self.plan, self.log, self._session = plan, log, None

        @property
        def num_io_tensors(self):
            return len(self.names())

        def names(self):
            if "names" in failing:
                return failing["names"]
            session = self.session()
            return [end.name for end in (*session.get_inputs(), *session.get_outputs())]

        def get_tensor_name(self, index):
            return self.names()[index]

        def get_tensor_dtype(self, tensor):
            return severity(io_dtype)

        def create_engine_inspector(self):
            return Inspector(self)

        def create_runtime_config(self):
            return RuntimeConfig()

        def create_execution_context(self, runtime_config=None):
            library.runtime_configs.append(runtime_config)
            return failing.get("context", Context(self))

        def session(self):
            import onnxruntime

            if self._session is None:
                self._session = onnxruntime.InferenceSession(
                    base64.b64decode(self.plan["graph"]), providers=["CPUExecutionProvider"]
                )
            return self._session

        def run(self, feeds):
            session = self.session()
            names = [end.name for end in session.get_outputs()]
            return dict(zip(names, session.run(names, feeds)))

    class Runtime:
        DLA_core = -1

        def __init__(self, log):
            self.log = log
            library.runtimes.append(self)

        def deserialize_cuda_engine(self, blob):
            if "deserialize" in failing:
                self.log.log(
                    severity("ERROR"), "expecting library version 8.5.2 got 8.5.3, please rebuild"
                )
                return None
            return Engine(json.loads(blob[40:]), self.log)

    library = types.ModuleType(name)
    library.__version__ = version
    library.ILogger, library.OnnxParser, library.Builder, library.Runtime = (
        object,
        Parser,
        Builder,
        Runtime,
    )
    library.MemoryPoolType = library.LayerType = library.LayerInformationFormat = (
        library.DeviceType
    ) = Knows()
    library.ProfilingVerbosity = Knows()
    old = major < 11 and name == "tensorrt"
    sources = ("CUBLAS", "CUBLAS_LT", "CUDNN", "EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")
    library.TacticSource = types.SimpleNamespace(
        **{source: bit for bit, source in enumerate(sources) if old or bit > 2}
    )
    if name == "tensorrt_rtx":
        library.CudaGraphStrategy = library.DynamicShapesKernelSpecializationStrategy = Knows()
    library.float32, library.float16 = "float32", "float16"
    if old:
        library.IInt8EntropyCalibrator2 = object
    flags = {"TF32", "GPU_FALLBACK", "OBEY_PRECISION_CONSTRAINTS"} | (
        {"FP16", "INT8"} if major < 11 and name == "tensorrt" else set()
    )
    library.BuilderFlag = types.SimpleNamespace(**{flag: flag for flag in flags})
    creation = {
        8: {"EXPLICIT_BATCH": 0, "EXPLICIT_PRECISION": 1},
        10: {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
        11: {"STRONGLY_TYPED": 0},
    }
    library.NetworkDefinitionCreationFlag = types.SimpleNamespace(
        **creation[major if name == "tensorrt" else 11]
    )
    library.ComputeCapability = types.SimpleNamespace(SM80=0, SM86=1, SM89=2, SM120=3, SM75=4)
    library.builders, library.runtimes, library.gpu = [], [], StandInCuda()
    library.runtime_configs = []
    return library


class StandInCuda(Cuda):
    """Memory is arrays by address. A copy takes 1 ms, the network 5 ms."""

    index, stream, library, can_capture = 0, 77, "stand-in", True

    def __init__(self, sm=72, can_capture=True):
        self.sm, self.can_capture, self.clock = sm, can_capture, 0.0
        self.memory, self.freed, self.enqueued = {}, [], []
        self.copies = 0
        """Copies within its memory."""
        self.events, self.graphs = 0, 0
        """Those that exist now."""

    def free_memory(self):
        used = sum(array.nbytes for address, array in self.memory.items())
        return 2**30 - used, 2**31

    def compute_capability(self):
        return self.sm

    def gpu_name(self):
        return "a stand-in GPU"

    def allocate(self, size_bytes):
        address = 2**32 * (len(self.memory) + 1)
        self.memory[address] = np.full(size_bytes, 0xA5, np.uint8)
        return address

    def free(self, address):
        self.freed.append(address)

    def host_array(self, shape, dtype):
        return np.zeros(shape, dtype)

    def tensor(self, address, shape, dtype):
        import torch

        return torch.from_numpy(self.memory[address].view(dtype).reshape(shape))

    def bytes_at(self, address):
        """Return the memory from an address within an allocation on."""
        start = max(at for at in self.memory if at <= address)
        return self.memory[start][address - start :]

    def copy_box(self, to, of, size):
        self.copies += 1
        planes, rows, row_bytes = size
        target, source = (
            self.bytes_at(box.address)[: planes * box.rows * box.row_bytes].reshape(
                planes, box.rows, box.row_bytes
            )[:, box.top : box.top + rows, box.left_bytes : box.left_bytes + row_bytes]
            for box in (to, of)
        )
        assert target.shape == source.shape == size
        target[...] = source

    def set_zero(self, address, size_bytes):
        self.bytes_at(address)[:size_bytes] = 0

    def to_device(self, address, array):
        self.clock += 1
        data = array.view(np.uint8).ravel()
        self.memory[address][: len(data)] = data

    def to_host(self, array, address):
        self.clock += 1
        array.view(np.uint8).ravel()[:] = self.bytes_at(address)[: array.nbytes]

    def synchronize(self):
        pass

    def event(self):
        self.events += 1
        return types.SimpleNamespace(at=None)

    def record(self, event):
        event.at = self.clock

    def free_event(self, event):
        self.events -= 1

    def elapsed_ms(self, start, end):
        return end.at - start.at

    def capture(self, work):
        if not work():
            return None

        def launch():
            self.clock += 5
            self.enqueued.append("graph")
            work()

        def free():
            self.graphs -= 1

        self.graphs += 1
        return CapturedGraph(launch, free)
