"""ONNX Runtime, on exactly the execution provider that was asked for: ``CPUExecutionProvider`` and its like."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detheads.deploy.runtime import load_onnxruntime
from detheads.deploy.session import CPU, OUTPUTS
from detheads.foundation.bundle import onnx_file
from detheads.foundation.cores import check_threads
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import BundleManifest

onnxruntime = load_onnxruntime()

INPUT = ("images", "tensor(uint8)")
TYPES = ("tensor(float)", "tensor(float)", "tensor(int32)")
"""Of :data:`detheads.deploy.session.OUTPUTS`."""


class OnnxRuntime:
    """``model.onnx``, checked against the manifest, in ONNX Runtime.

    Attributes:
        name: library, version and provider that run the graph.
    """

    def __init__(self, bundle: Path, manifest: BundleManifest, provider: str, threads: int | None) -> None:
        path = onnx_file(bundle, manifest)
        self._session = open_graph(path, provider=provider, threads=threads)
        _require_agreement(self._session, manifest, path)
        self._outputs = [entry.name for entry in self._session.get_outputs()]
        self.name = f"onnxruntime {onnxruntime.__version__} {provider}"

    def run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """See :class:`detheads.deploy.session.Backend`."""
        return dict(zip(self._outputs, self._session.run(self._outputs, {INPUT[0]: images}), strict=True))


def open_backend(bundle: Path, manifest: BundleManifest, provider: str, threads: int | None) -> OnnxRuntime:
    """The bundle's ONNX graph on the execution provider of that name.

    Raises:
        UserError: when a file is not the one the manifest describes, graph and manifest contradict each other, or the
            provider is not there.
    """
    return OnnxRuntime(bundle, manifest, provider, threads)


def open_graph(graph: Path | bytes, *, provider: str = CPU, threads: int | None = None) -> Any:
    """An ONNX Runtime session on ``provider`` and no other.

    Args:
        graph: an ONNX file or its content.

    Raises:
        UserError: when the provider is not available, does not start, the graph cannot be loaded, or ``threads`` is out
            of proportion to the machine.
    """
    name = str(graph) if isinstance(graph, Path) else "the graph"
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise UserError(f"ONNX Runtime has no {provider} here; it offers {', '.join(available)}.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    check_threads(threads)
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(_taken(graph), options, providers=[provider])
    except Exception as error:  # the library's exceptions share no base class but Exception
        raise UserError(f"{name} cannot be loaded by ONNX Runtime ({str(error).splitlines()[0]}).") from None
    session.disable_fallback()
    in_use = session.get_providers()
    if in_use[0] != provider:  # the library replaces a provider that does not start by the CPU, with a log line only
        raise UserError(f"{provider} did not start; ONNX Runtime would use {in_use[0]} instead and was stopped.")
    return session


def _taken(graph: Path | bytes) -> str | bytes:
    """The graph as the library takes it: it opens no path that is not UTF-8."""
    if isinstance(graph, bytes):
        return graph
    try:
        str(graph).encode()
    except UnicodeEncodeError:
        return graph.read_bytes()
    return str(graph)


def _require_agreement(session: Any, manifest: BundleManifest, path: Path) -> None:
    inputs = [(entry.name, entry.type) for entry in session.get_inputs()]
    outputs = {entry.name: entry.type for entry in session.get_outputs()}
    wanted = {
        manifest.prefix(head) + name: kind for head in manifest.heads for name, kind in zip(OUTPUTS, TYPES, strict=True)
    }
    if inputs != [INPUT] or outputs != wanted:
        raise UserError(f"{path} has inputs {inputs} and outputs {outputs}; it is not a graph of 'detheads export'.")
    shape = session.get_inputs()[0].shape
    if shape[1:] != [3, manifest.input.height, manifest.input.width]:
        raise UserError(
            f"{path} takes images {shape[1:]}, bundle.json says "
            f"[3, {manifest.input.height}, {manifest.input.width}]; export the bundle again."
        )
    said = session.get_modelmeta().custom_metadata_map
    for key, value in manifest.graph_metadata().items():
        if said.get(key) != value:
            what = key.removeprefix("detheads.")
            raise UserError(f"bundle.json and {path} disagree about {what}; one was changed, export the bundle again.")
