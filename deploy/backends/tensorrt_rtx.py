"""TensorRT-RTX: the bundle's engine of it on a GPU; provider ``tensorrt_rtx`` or ``tensorrt_rtx:DEVICE``."""

from detheads.deploy.engines.opening import engines_of
from detheads.deploy.engines.opening import open_engine as open_backend
from detheads.foundation.manifest import BundleManifest

__all__ = ["candidates", "open_backend"]


def candidates(manifest: BundleManifest) -> list[str]:
    """See :class:`detheads.deploy.session.Backend`: the bundle's engine, where it has one."""
    return ["tensorrt_rtx"] if engines_of(manifest, "tensorrt_rtx") else []
