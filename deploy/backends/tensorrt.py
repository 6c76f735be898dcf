"""NVIDIA's TensorRT: the bundle's engine of ``tensorrt`` on a GPU; provider ``tensorrt`` or ``tensorrt:DEVICE``."""

from detheads.deploy.engines.opening import open_engine as open_backend

__all__ = ["open_backend"]
