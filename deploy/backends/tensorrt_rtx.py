"""TensorRT-RTX: the bundle's engine of it on a GPU; provider ``tensorrt_rtx`` or ``tensorrt_rtx:DEVICE``."""

from detheads.deploy.engines.opening import open_engine as open_backend

__all__ = ["open_backend"]
