"""A GPU in the memory of the host: what the runtime asks of CUDA and of an engine, done late and checked.

Work that is put on a stream is done when somebody waits for it, so a missing wait shows. Every call is held against the
signature of the real function or the real class. ONNX Runtime computes what the engine would.
"""

import ctypes
import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from detheads.deploy.engines.library import Library

Work = Callable[[], None]


class HostCuda:
    """The module ``cuda.bindings.runtime`` with one GPU, or several, that are none."""

    def __init__(self, real: Any, capability: str = "SM86", gpus: int = 1, memory: int = 1 << 30) -> None:
        self.real, self.capability, self.gpus, self.free = real, capability, gpus, memory
        self.blocks: dict[int, Any] = {}
        self.queue: list[Work] = []
        self.captured: list[Work] | None = None
        self.graphs: dict[int, list[Work]] = {}
        self.threads: set[int] = set()
        self.calls: list[str] = []
        self.broken_capture = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.real, name)
        if inspect.isclass(real) or not callable(real):
            return real
        own = getattr(self, f"do_{name}")

        def call(*arguments: Any) -> tuple[Any, ...]:
            inspect.signature(real).bind(*arguments)
            self.calls.append(name)
            if name not in {"cudaGetDeviceCount", "cudaGetDeviceProperties", "cudaSetDevice", "cudaGetErrorString"}:
                assert threading.get_ident() in self.threads, f"{name} in a thread without a device"
            result = own(*arguments)
            error = self.real.cudaError_t
            return result if isinstance(result, tuple) else (error.cudaSuccess, result)

        return call

    def put(self, work: Work) -> None:
        """Put work on the stream, or into the graph that is being captured."""
        (self.queue if self.captured is None else self.captured).append(work)

    def do_cudaGetDeviceCount(self) -> int:  # noqa: N802 - the real names
        return self.gpus

    def do_cudaGetDeviceProperties(self, device: int) -> Any:  # noqa: N802
        return SimpleNamespace(
            name=b"A GPU that is none\0", major=int(self.capability[2:-1]), minor=int(self.capability[-1])
        )

    def do_cudaSetDevice(self, device: int) -> tuple[Any]:  # noqa: N802
        assert 0 <= device < self.gpus
        self.threads.add(threading.get_ident())
        return (self.real.cudaError_t.cudaSuccess,)

    def do_cudaGetErrorString(self, error: Any) -> bytes:  # noqa: N802
        return self.real.cudaGetErrorString(error)[1]

    def do_cudaMalloc(self, size: int) -> Any:  # noqa: N802
        if size > self.free:
            return self.real.cudaError_t.cudaErrorMemoryAllocation, None
        self.free -= size
        block = ctypes.create_string_buffer(b"\x55" * size, size)
        self.blocks[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    do_cudaMallocHost = do_cudaMalloc  # noqa: N815

    def do_cudaFree(self, address: int) -> tuple[Any]:  # noqa: N802
        self.free += len(self.blocks.pop(address))
        return (self.real.cudaError_t.cudaSuccess,)

    do_cudaFreeHost = do_cudaFree  # noqa: N815

    def do_cudaMemcpyAsync(self, to: int, start: int, count: int, kind: Any, stream: Any) -> tuple[Any]:  # noqa: N802
        assert count <= len(self.blocks[to])
        assert count <= len(self.blocks[start])
        self.put(lambda: ctypes.memmove(to, start, count) and None)
        return (self.real.cudaError_t.cudaSuccess,)

    def do_cudaStreamCreateWithFlags(self, flags: int) -> Any:  # noqa: N802
        assert flags == self.real.cudaStreamNonBlocking
        return self.real.cudaStream_t(77)

    def do_cudaStreamDestroy(self, stream: Any) -> tuple[Any]:  # noqa: N802
        return (self.real.cudaError_t.cudaSuccess,)

    def do_cudaStreamSynchronize(self, stream: Any) -> tuple[Any]:  # noqa: N802
        assert self.captured is None
        while self.queue:
            self.queue.pop(0)()
        return (self.real.cudaError_t.cudaSuccess,)

    def do_cudaStreamBeginCapture(self, stream: Any, mode: Any) -> tuple[Any]:  # noqa: N802
        self.captured, self.broken_capture = [], False
        return (self.real.cudaError_t.cudaSuccess,)

    def do_cudaStreamEndCapture(self, stream: Any) -> Any:  # noqa: N802
        captured, self.captured = self.captured, None
        if self.broken_capture:
            return self.real.cudaError_t.cudaErrorStreamCaptureInvalidated, None
        assert captured is not None
        self.graphs[len(self.graphs) + 1] = captured
        return len(self.graphs)

    def do_cudaGraphInstantiate(self, graph: int, flags: int) -> int:  # noqa: N802
        return graph

    def do_cudaGraphDestroy(self, graph: int) -> tuple[Any]:  # noqa: N802
        return (self.real.cudaError_t.cudaSuccess,)

    do_cudaGraphExecDestroy = do_cudaGraphDestroy  # noqa: N815

    def do_cudaGraphLaunch(self, graph: int, stream: Any) -> tuple[Any]:  # noqa: N802
        self.queue += self.graphs[graph]
        return (self.real.cudaError_t.cudaSuccess,)

    def do_cudaGetLastError(self) -> tuple[Any]:  # noqa: N802
        return (self.real.cudaError_t.cudaSuccess,)


def engine_of(trt: Any, model: Path, cuda: HostCuda, sizes: tuple[int, int, int], waits: bool = False) -> Any:
    """An ``ICudaEngine`` of that graph whose contexts work on the host's GPU.

    Args:
        waits: it makes the host wait, as a loop does, and cannot be captured.
    """
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    kinds = {
        "tensor(uint8)": trt.DataType.UINT8,
        "tensor(float)": trt.DataType.FLOAT,
        "tensor(int32)": trt.DataType.INT32,
    }
    (entry,), results = session.get_inputs(), session.get_outputs()
    types = {tensor.name: kinds[tensor.type] for tensor in (entry, *results)}
    rows = {tensor.name: tuple(tensor.shape[1:]) for tensor in (entry, *results)}
    names = list(types)

    def new_context(*_: Any, **options: Any) -> Any:
        context = create_autospec(trt.IExecutionContext, instance=True)
        state: dict[str, Any] = {"count": 0}

        def set_input_shape(name: str, shape: tuple[int, ...]) -> bool:
            assert name == entry.name
            assert shape[1:] == rows[name]
            state["count"] = shape[0]
            return sizes[0] <= shape[0] <= sizes[2]

        def memory(name: str, count: int) -> NDArray[Any]:
            kind = np.dtype(trt.nptype(types[name]))
            size = count * int(np.prod(rows[name])) * kind.itemsize
            assert size <= len(cuda.blocks[state[name]])
            return np.frombuffer((ctypes.c_uint8 * size).from_address(state[name]), kind).reshape(count, *rows[name])

        def execute_async_v3(stream_handle: int) -> bool:
            assert stream_handle == 77
            if waits and cuda.captured is not None:
                cuda.broken_capture = True
                return False
            count = state["count"]

            def work() -> None:
                given = session.run(None, {entry.name: memory(entry.name, count)})
                for tensor, values in zip(results, given, strict=True):
                    memory(tensor.name, count)[...] = values

            cuda.put(work)
            return True

        context.set_input_shape.side_effect = set_input_shape
        context.get_tensor_shape.side_effect = lambda name: trt.Dims((state["count"], *rows[name]))
        context.set_tensor_address.side_effect = lambda name, address: state.update({name: address}) is None
        context.execute_async_v3.side_effect = execute_async_v3
        context.is_stream_capturable.side_effect = lambda stream: not waits
        return context

    engine = create_autospec(trt.ICudaEngine, instance=True)
    engine.num_io_tensors = len(names)
    engine.get_tensor_name.side_effect = names.__getitem__
    engine.get_tensor_dtype.side_effect = types.__getitem__
    engine.get_tensor_shape.side_effect = lambda name: trt.Dims((-1, *rows[name]))
    engine.get_tensor_mode.side_effect = lambda name: (
        trt.TensorIOMode.INPUT if name == entry.name else trt.TensorIOMode.OUTPUT
    )
    engine.get_tensor_profile_shape.side_effect = lambda name, index: [trt.Dims((size, *rows[name])) for size in sizes]
    engine.create_execution_context.side_effect = new_context
    return engine


def library_of(trt: Any, name: str, version: str, load: Callable[[bytes], Any], validity: Any = None) -> Library:
    """The library of that name whose runtime loads engines with ``load``."""
    module = ModuleType(name)
    vars(module).update({key: value for key, value in vars(trt).items() if not key.startswith("__")})
    runtime = create_autospec(trt.Runtime, instance=True)
    runtime.deserialize_cuda_engine.side_effect = load
    runtime.engine_header_size = 64
    runtime.get_engine_validity.side_effect = lambda header: validity or (trt.EngineValidity.VALID, 0)
    if name == "tensorrt":  # which has not these
        runtime = SimpleNamespace(deserialize_cuda_engine=runtime.deserialize_cuda_engine)
        for missing in ("CudaGraphStrategy", "ComputeCapability", "EngineValidity", "EngineInvalidityDiagnostics"):
            delattr(module, missing)
    vars(module)["Runtime"] = lambda log: runtime
    return Library(module, name, version)
