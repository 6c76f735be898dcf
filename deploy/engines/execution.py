"""Engines executed: bindings by name, dynamic batches, pinned buffers, one stream, CUDA graphs where they are possible.

Written against the interface of TensorRT 10 and 11 and of TensorRT-RTX, which is the same here.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detheads.deploy.engines.cuda import Buffer, Cuda, CudaError
from detheads.deploy.engines.inspection import executed_types
from detheads.deploy.engines.library import AHEAD_OF_TIME, Library, said
from detheads.foundation.errors import UserError

MOST_GRAPHS: Final = 4
"""Batch sizes that are captured as CUDA graphs: each keeps an execution context, and so its memory, for itself."""


@dataclass
class Lane:
    """An execution context, and what was captured of it.

    Attributes:
        count: batch size that its shapes are set to; 0: none yet.
        graph: the captured CUDA graph of that batch size.
        capturable: a capture may still be tried.
    """

    context: Any
    count: int = 0
    graph: Any = None
    capturable: bool = False


class EngineRunner:
    """A loaded engine as a function on batches of images. Threads may share one; they take turns.

    Args:
        engine: ``ICudaEngine``.
        outputs: name -> type of every output that the graph must have.
        shape: ``(3, H, W)`` of the input.

    Raises:
        UserError: when its inputs and outputs are not those, or the GPU has not the memory.
    """

    def __init__(
        self,
        engine: Any,
        library: Library,
        cuda: Cuda,
        input_name: str,
        shape: tuple[int, ...],
        outputs: Mapping[str, np.dtype[Any]],
    ) -> None:
        self._engine, self._library, self._cuda = engine, library, cuda
        self._input, self._shape = input_name, shape
        self._types = dict(outputs)
        self._require_agreement()
        smallest, _, largest = engine.get_tensor_profile_shape(input_name, 0)
        self.smallest, self.largest = int(smallest[0]), int(largest[0])
        self._lock = threading.Lock()
        self._own_graphs = library.name != AHEAD_OF_TIME
        self._stream = cuda.call("cudaStreamCreateWithFlags", cuda.runtime.cudaStreamNonBlocking)
        self._lanes: dict[int, Lane] = {}
        self._shared = Lane(self._new_context())
        self._rows = self._row_shapes()
        if not self._own_graphs and self._shared.context.is_stream_capturable(int(self._stream)):
            self._shared = Lane(self._new_context(captures=True))
        self._buffers: dict[str, Buffer] = {}
        try:
            self._buffers[input_name] = Buffer.of(cuda, self.largest * int(np.prod(shape)))
            for name, rows in self._rows.items():
                size = self.largest * int(np.prod(rows)) * self._types[name].itemsize
                self._buffers[name] = Buffer.of(cuda, size)
        except UserError:
            self.close()
            raise
        self._bind(self._shared)

    @property
    def captured(self) -> list[int]:
        """Batch sizes that run as CUDA graphs which were captured here."""
        return sorted(count for count, lane in self._lanes.items() if lane.graph is not None)

    def run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """uint8 ``[B, 3, H, W]`` -> outputs by name, their first axis the batch.

        More images than the engine's largest batch are run one batch after another; fewer than its smallest with the
        last one repeated, whose rows are dropped: rows of a batch do not depend on each other.

        Raises:
            UserError: when the GPU or the library fails.
        """
        with self._lock:
            try:
                self._cuda.use()
                parts = [self._run_part(part) for part in self._parts(images)]
            except CudaError as error:
                raise UserError(f"the engine stopped ({error}); restart the program, and see nvidia-smi.") from None
        return {name: np.concatenate([part[name] for part in parts]) for name in self._types}

    def executed_types(self) -> dict[str, int]:
        """Layer outputs of the built engine by type (see :func:`executed_types`)."""
        with self._lock:
            return executed_types(self._engine, self._library, self._shared.context if self._shared.count else None)

    def close(self) -> None:
        """Give back what it holds on the GPU; nothing can be run afterwards."""
        with suppress(CudaError):  # a GPU that is lost keeps nothing
            self._cuda.use()
            for lane in self._lanes.values():
                if lane.graph is not None:
                    self._cuda.call("cudaGraphExecDestroy", lane.graph)
            for buffer in self._buffers.values():
                buffer.release(self._cuda)
            self._cuda.call("cudaStreamDestroy", self._stream)
        self._lanes, self._buffers = {}, {}

    def __del__(self) -> None:
        if getattr(self, "_buffers", None):
            self.close()

    def _parts(self, images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        for start in range(0, len(images), self.largest):
            yield images[start : start + self.largest]

    def _run_part(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        wanted = len(images)
        count = max(wanted, self.smallest)
        size = images[0].nbytes
        host = self._buffers[self._input].host[: count * size].reshape(count, *self._shape)
        host[:wanted] = images
        host[wanted:] = images[-1]
        lane = self._lane(count)
        if lane.graph is not None:
            self._cuda.call("cudaGraphLaunch", lane.graph, self._stream)
        else:
            self._enqueue(lane, count)
        self._cuda.call("cudaStreamSynchronize", self._stream)
        found = {}
        for name, rows in self._rows.items():
            kind = self._types[name]
            used = count * int(np.prod(rows)) * kind.itemsize
            found[name] = self._buffers[name].host[:used].view(kind).reshape(count, *rows)[:wanted].copy()
        if lane.capturable:
            self._capture(lane, count)
        return found

    def _lane(self, count: int) -> Lane:
        """The lane of a batch size, its shapes set: one of its own while graphs are captured, else the shared one."""
        lane = self._lanes.get(count)
        if lane is None and self._own_graphs and len(self._lanes) < MOST_GRAPHS:
            lane = self._lanes[count] = Lane(self._new_context(), capturable=True)
            self._bind(lane)
        lane = lane or self._shared
        if lane.count != count:
            if not lane.context.set_input_shape(self._input, (count, *self._shape)):
                raise UserError(f"the engine refuses {count} images at a time; build it for that batch size.")
            lane.count = count
        return lane

    def _enqueue(self, lane: Lane, count: int) -> None:
        """Put on the stream: images to the GPU, the engine's work, its results to the host."""
        self._cuda.to_device(self._buffers[self._input], count * int(np.prod(self._shape)), self._stream)
        with self._library.listening() as errors:
            if not lane.context.execute_async_v3(int(self._stream)):
                raise CudaError(said(errors))
        for name, rows in self._rows.items():
            size = count * int(np.prod(rows)) * self._types[name].itemsize
            self._cuda.to_host(self._buffers[name], size, self._stream)

    def _capture(self, lane: Lane, count: int) -> None:
        """Capture what was just run, as one launch for the next time.

        It is not possible for every engine: a loop that runs until its data says so (suppression) makes the host wait.
        Then the engine goes on as before, which gives the same results.
        """
        lane.capturable = False
        runtime = self._cuda.runtime
        self._cuda.call(
            "cudaStreamBeginCapture", self._stream, runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        )
        refused = None
        try:
            self._enqueue(lane, count)
        except CudaError as error:
            refused = error
        try:  # ended in any case, or the stream stays in capture
            graph = self._cuda.call("cudaStreamEndCapture", self._stream)
            if refused is None:
                lane.graph = self._cuda.call("cudaGraphInstantiate", graph, 0)
            self._cuda.call("cudaGraphDestroy", graph)
        except CudaError:
            runtime.cudaGetLastError()  # else a later call is told of it

    def _new_context(self, captures: bool = False) -> Any:
        """An execution context; ``captures``: one of TensorRT-RTX that captures by itself, when its kernels for a shape
        are ready, which only it knows."""
        options = {}
        if captures:
            options["runtime_config"] = config = self._engine.create_runtime_config()
            config.cuda_graph_strategy = self._library.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        with self._library.listening() as errors:
            context = self._engine.create_execution_context(**options)
            if context is None:
                raise UserError(f"{self._library} cannot prepare the engine on {self._cuda.gpu}: {said(errors)}.")
        return context

    def _bind(self, lane: Lane) -> None:
        for name, buffer in self._buffers.items():
            if not lane.context.set_tensor_address(name, buffer.device):
                raise UserError(f"{self._library} refuses memory for {name}; build the engine anew.")

    def _row_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one image's part of each output, as the context tells for the largest batch."""
        context = self._shared.context
        if not context.set_input_shape(self._input, (self.largest, *self._shape)):
            raise UserError(
                f"the engine refuses {self.largest} images at a time, its own largest batch; build it anew."
            )
        self._shared.count = self.largest
        shapes = {name: tuple(context.get_tensor_shape(name)) for name in self._types}
        for name, shape in shapes.items():
            if min(shape) < 0 or shape[0] != self.largest:
                raise UserError(f"the engine's output {name} has the shape {shape}, which depends on the images.")
        return {name: shape[1:] for name, shape in shapes.items()}

    def _require_agreement(self) -> None:
        """Inputs and outputs must be those that the manifest promises."""
        trt, engine = self._library.module, self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        kinds = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
        modes = {name: engine.get_tensor_mode(name) for name in names}
        inputs = {name: kinds[name] for name in names if modes[name] == trt.TensorIOMode.INPUT}
        outputs = {name: kinds[name] for name in names if name not in inputs}
        shape = tuple(engine.get_tensor_shape(self._input))[1:] if self._input in inputs else ()
        if inputs != {self._input: np.dtype(np.uint8)} or outputs != self._types or shape != self._shape:
            told = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
            raise UserError(f"the engine has {told}; it is not one of this bundle's graph, build it anew.")
