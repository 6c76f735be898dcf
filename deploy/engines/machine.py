"""The GPU of this machine, asked through ``cuda-python``, and the platform."""

import platform
import sys
from dataclasses import dataclass
from typing import Any

from detheads.foundation.errors import UserError


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        index: its number, as CUDA counts.
        capability: its architecture, like ``SM89``.
    """

    index: int
    name: str
    capability: str

    def __str__(self) -> str:
        return f"{self.name} ({self.capability})"


def platform_name() -> str:
    """``linux-x86_64`` and its like."""
    return f"{sys.platform}-{platform.machine().lower()}"


def cuda_runtime() -> Any:
    """The module ``cuda.bindings.runtime``.

    Raises:
        UserError: when cuda-python is not installed or does not start.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise UserError(
            f"engines are executed through cuda-python, which does not start here ({error}); install it with: pip "
            "install 'detheads[tensorrt]' or 'detheads[tensorrt-rtx]'."
        ) from None
    return runtime


def find_gpu(index: int = 0, runtime: Any = None) -> Gpu:
    """The GPU of that number.

    Raises:
        UserError: when there is no such GPU, no driver or one that is too old, or no cuda-python.
    """
    runtime = runtime or cuda_runtime()
    error, count = runtime.cudaGetDeviceCount()
    if error.name == "cudaErrorInsufficientDriver":
        _, driver = runtime.cudaDriverGetVersion()
        needed = _version(runtime.cudaRuntimeGetVersion()[1])
        found = f"the one here is for CUDA {_version(driver)}" if driver else "there is none here"
        raise UserError(
            f"engines need an NVIDIA driver for CUDA {needed} or newer, and {found}; run model.onnx on the CPU instead "
            "(CPUExecutionProvider)."
        )
    if error.name != "cudaSuccess" or not count:
        why = "" if error.name in {"cudaSuccess", "cudaErrorNoDevice"} else f" ({error.name})"
        raise UserError(
            f"there is no NVIDIA GPU here{why}, and engines run on nothing else; run model.onnx on the CPU instead "
            "(CPUExecutionProvider)."
        )
    if not 0 <= index < count:
        raise UserError(f"there is no GPU {index} here; the {count} that there are count from 0.")
    error, properties = runtime.cudaGetDeviceProperties(index)
    if error.name != "cudaSuccess":
        raise UserError(f"GPU {index} does not answer ({error.name}); see nvidia-smi.")
    name = properties.name.partition(b"\0")[0].decode(errors="replace")
    return Gpu(index, name or "NVIDIA GPU", f"SM{properties.major}{properties.minor}")


def gpu_here() -> Gpu | None:
    """The first GPU; None where there is none or nothing to ask it with."""
    try:
        return find_gpu()
    except UserError:
        return None


def _version(number: int) -> str:
    """``13050`` -> ``13.5``."""
    return f"{number // 1000}.{number % 1000 // 10}"
