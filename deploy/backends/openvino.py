"""OpenVINO, on exactly the device that was asked for: ``openvino`` is its CPU, ``openvino:GPU`` its GPU.

``AUTO``, ``MULTI`` and ``HETERO`` choose devices by themselves and are refused. The graph decides the precision: left
to itself, OpenVINO computes an FP32 graph in bfloat16 on CPUs that have it (seen with 2026.4), in float16 on GPUs.
"""

import threading
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detheads.deploy.agreement import INPUT, require_agreement
from detheads.foundation.bundle import onnx_file
from detheads.foundation.cores import fitting_threads
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import BundleManifest

try:
    import openvino
except ImportError as error:
    raise UserError(
        "the backend openvino needs OpenVINO; install it with: pip install 'detheads[openvino]'."
    ) from error

DEFAULT: Final = "CPU"
CHOOSING: Final = ("AUTO", "MULTI", "HETERO", "BATCH")


class OpenVino:
    """``model.onnx``, checked against the manifest, in OpenVINO. Threads may share it.

    Attributes:
        name: library, version and device that run the graph.
        file: the file of the bundle that it runs.
    """

    def __init__(self, bundle: Path, manifest: BundleManifest, device: str, threads: int | None) -> None:
        path = onnx_file(bundle, manifest)
        graph = require_agreement(path, manifest)
        threads = fitting_threads(threads)
        core = openvino.Core()
        _require_device(core, device)
        try:
            model = core.read_model(str(path))
            self._compiled = core.compile_model(model, device, _properties(manifest, device, threads))
        except RuntimeError as error:
            raise UserError(f"OpenVINO cannot run {path} on {device} ({_said(error)}).") from None
        _require_in_use(self._compiled, device)
        self._local = threading.local()
        self._outputs = [tensor.name for tensor in graph.outputs]
        self.file = manifest.onnx.file
        self.name = f"openvino {openvino.__version__.partition('-')[0]} {device}"

    def run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """See :class:`detheads.deploy.session.Backend`."""
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        found = self._local.request.infer({INPUT: images}, share_inputs=True)
        return {name: found[name] for name in self._outputs}


def open_backend(bundle: Path, manifest: BundleManifest, provider: str, threads: int | None) -> OpenVino:
    """The bundle's ONNX graph on the device ``openvino:DEVICE``.

    Raises:
        UserError: when a file is not the one the manifest describes, graph and manifest contradict each other, or the
            device is not there.
    """
    return OpenVino(bundle, manifest, provider.partition(":")[2] or DEFAULT, threads)


def candidates(manifest: BundleManifest) -> list[str]:
    """See :class:`detheads.deploy.session.Backend`: every device there is."""
    return [f"openvino:{device}" for device in openvino.Core().available_devices]


def _properties(manifest: BundleManifest, device: str, threads: int | None) -> dict[str, Any]:
    """FP32 graphs are computed in FP32; in others each operator in the type that the graph gives it."""
    chosen: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if manifest.precision == "fp32":
        chosen["INFERENCE_PRECISION_HINT"] = "f32"
    else:
        chosen["EXECUTION_MODE_HINT"] = "ACCURACY"
    if threads is not None and device == DEFAULT:
        chosen["INFERENCE_NUM_THREADS"] = threads
    return chosen


def _require_device(core: Any, device: str) -> None:
    if device.partition(":")[0] in CHOOSING:
        raise UserError(f"{device} lets OpenVINO choose the device; name one of {', '.join(core.available_devices)}.")
    known = core.available_devices
    if not any(name == device or name.partition(".")[0] == device for name in known):
        raise UserError(f"OpenVINO has no device {device} here; it offers {', '.join(known) or 'none'}.")


def _require_in_use(compiled: Any, device: str) -> None:
    """Refuse a graph that went elsewhere. A device of several may be told with its number: ``GPU`` is ``GPU.0``."""
    in_use = compiled.get_property("EXECUTION_DEVICES")
    if {name.partition(".")[0] for name in in_use} != {device.partition(".")[0]}:
        raise UserError(f"OpenVINO would run on {', '.join(in_use)} instead of {device} and was stopped.")


def _said(error: RuntimeError) -> str:
    """The line of an error that says something; others name places in OpenVINO's own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith(("Exception from", "Check "))), "no reason given")
