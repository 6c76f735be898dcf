"""The calls of the CUDA runtime that executing an engine takes, through ``cuda-python``, and memory on both sides."""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detheads.deploy.engines.machine import Gpu
from detheads.foundation.atomic import sized
from detheads.foundation.errors import UserError


class CudaError(RuntimeError):
    """A call of the CUDA runtime that failed, in CUDA's words."""


class Cuda:
    """The CUDA runtime on one GPU.

    Args:
        runtime: the module ``cuda.bindings.runtime``.
    """

    def __init__(self, runtime: Any, gpu: Gpu) -> None:
        self.runtime = runtime
        self.gpu = gpu
        self.use()

    def use(self) -> None:
        """Make the GPU that of the calling thread, for each thread has one of its own."""
        self.call("cudaSetDevice", self.gpu.index)

    def call(self, name: str, *arguments: Any) -> Any:
        """A function of the runtime by its name; returns what it gives beside the error code.

        Raises:
            CudaError: when it fails.
        """
        error, *values = getattr(self.runtime, name)(*arguments)
        if error != self.runtime.cudaError_t.cudaSuccess:
            _, words = self.runtime.cudaGetErrorString(error)
            raise CudaError(f"{name} on {self.gpu}: {words.decode(errors='replace')}")
        return values[0] if values else None

    def to_device(self, buffer: "Buffer", count: int, stream: Any) -> None:
        """Copy the first bytes of the host's side to the GPU's, when the stream comes to it."""
        kind = self.runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", buffer.device, buffer.address, count, kind, stream)

    def to_host(self, buffer: "Buffer", count: int, stream: Any) -> None:
        """Copy the first bytes of the GPU's side to the host's, when the stream comes to it."""
        kind = self.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", buffer.address, buffer.device, count, kind, stream)


@dataclass(frozen=True)
class Buffer:
    """Room for a tensor on the GPU, and pinned room for it on the host, which the GPU copies from and to by itself.

    Attributes:
        device, address: where they begin.
        host: the host's side as bytes, ``[size]``.
    """

    device: int
    address: int
    host: NDArray[np.uint8]

    @classmethod
    def of(cls, cuda: Cuda, size: int) -> "Buffer":
        """Reserve ``size`` bytes on both sides.

        Raises:
            UserError: when one has not so much left.
        """
        device = 0
        try:
            device = int(cuda.call("cudaMalloc", size))
            address = int(cuda.call("cudaMallocHost", size))
        except CudaError as error:
            if device:
                cuda.call("cudaFree", device)
            raise UserError(
                f"{cuda.gpu} has no room for {sized(size)} ({error}); close other programs or build the engine for "
                "smaller batches."
            ) from None
        host = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return cls(device, address, host)

    def release(self, cuda: Cuda) -> None:
        """Give both sides back."""
        cuda.call("cudaFree", self.device)
        cuda.call("cudaFreeHost", self.address)
