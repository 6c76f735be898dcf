"""ONNX Runtime, on exactly the execution provider that was asked for: ``CPUExecutionProvider`` and its like."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detheads.deploy.agreement import INPUT, require_agreement
from detheads.deploy.runtime import load_onnxruntime
from detheads.deploy.session import CPU, SHORT, known_backends
from detheads.foundation.bundle import onnx_file
from detheads.foundation.cores import fitting_threads
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import BundleManifest

onnxruntime = load_onnxruntime()

DEVICE_OPTIONS: Final[Mapping[str, str]] = {
    "CUDAExecutionProvider": "device_id",
    "DmlExecutionProvider": "device_id",
    "MIGraphXExecutionProvider": "device_id",
    "NvTensorRTRTXExecutionProvider": "device_id",
    "OpenVINOExecutionProvider": "device_type",
    "TensorrtExecutionProvider": "device_id",
}
"""What each provider calls its device (onnxruntime.ai, "Execution Providers")."""
EXACT: Final[Mapping[str, Mapping[str, str]]] = {
    "CUDAExecutionProvider": {"use_tf32": "0"},
    "OpenVINOExecutionProvider": {"precision": "ACCURACY"},
}
"""Their defaults compute FP32 graphs in less: CUDA in TF32 from Ampere on, OpenVINO in float16 on a GPU."""
RECORD_PLACES: Final = "session.record_ep_graph_assignment_info"
"""Makes a session remember which provider each node went to; known from 1.24 on, and passed over before."""

ELSEWHERE = "build an engine for a GPU with 'detheads bundle build', or export in another precision"
"""What to do with a graph in BF16, for which the CPU has no convolutions or products."""


class OnnxRuntime:
    """``model.onnx``, checked against the manifest, in ONNX Runtime.

    Attributes:
        name: library, version and provider that run the graph, and how many nodes another one runs.
        file: the file of the bundle that it runs.
    """

    def __init__(self, bundle: Path, manifest: BundleManifest, provider: str, threads: int | None) -> None:
        path = onnx_file(bundle, manifest)
        graph = require_agreement(path, manifest)
        self._session = open_graph(path, provider=provider, threads=threads)
        self._outputs = [tensor.name for tensor in graph.outputs]
        self.file = manifest.onnx.file
        self.name = f"onnxruntime {onnxruntime.__version__} {provider}{_elsewhere(self._session, provider)}"

    def run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """See :class:`detheads.deploy.session.Backend`."""
        return dict(zip(self._outputs, self._session.run(self._outputs, {INPUT: images}), strict=True))


def open_backend(bundle: Path, manifest: BundleManifest, provider: str, threads: int | None) -> OnnxRuntime:
    """The bundle's ONNX graph on the execution provider of that name.

    Raises:
        UserError: when a file is not the one the manifest describes, graph and manifest contradict each other, or the
            provider is not there.
    """
    return OnnxRuntime(bundle, manifest, provider, threads)


def candidates(manifest: BundleManifest) -> list[str]:
    """See :class:`detheads.deploy.session.Backend`: the CPU, and the GPU of a build that has it."""
    available = onnxruntime.get_available_providers()
    return [name for name, provider in SHORT.items() if provider in available]


def open_graph(graph: Path | bytes, *, provider: str = CPU, threads: int | None = None) -> Any:
    """An ONNX Runtime session on ``provider`` and no other. Nodes that it does not take are the CPU's, as ONNX Runtime
    always does it (shapes are computed there on purpose); a graph of which it takes nothing is refused.

    Args:
        graph: an ONNX file or its content.
        provider: its name, with ``:DEVICE`` where it is not the first one.

    Raises:
        UserError: when the provider is not available, does not start or takes no node, the graph cannot be loaded, or
            ``threads`` is out of proportion to the machine.
    """
    name = str(graph) if isinstance(graph, Path) else "the graph"
    kind, _, device = provider.partition(":")
    available = onnxruntime.get_available_providers()
    if kind not in available:
        raise UserError(
            f"ONNX Runtime has no {provider} here; it offers {', '.join(available)}. Backends are "
            f"{', '.join(known_backends())}."
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(RECORD_PLACES, "1")
    threads = fitting_threads(threads)
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(_taken(graph), options, providers=[(kind, _options(kind, device))])
    except Exception as error:  # the library's exceptions share no base class but Exception
        reason = str(error).splitlines()[0]
        advice = f"; {kind} does not compute in its precision: {ELSEWHERE}" if "NOT_IMPLEMENTED" in reason else ""
        raise UserError(f"{name} cannot be loaded by ONNX Runtime ({reason}){advice}.") from None
    session.disable_fallback()
    in_use = session.get_providers()
    if in_use[0] != kind:  # the library replaces a provider that does not start by the CPU, with a log line only
        raise UserError(f"{provider} did not start; ONNX Runtime would use {in_use[0]} instead and was stopped.")
    if (places := _places(session)) and not places[kind]:
        raise UserError(f"{provider} takes no node of {name}; ONNX Runtime would use others instead and was stopped.")
    return session


def _options(kind: str, device: str) -> dict[str, str]:
    """What a provider is told."""
    if device and kind not in DEVICE_OPTIONS:
        raise UserError(f"{kind} has no devices to choose from; leave :{device} out.")
    return {**EXACT.get(kind, {}), **({DEVICE_OPTIONS[kind]: device} if device else {})}


def _places(session: Any) -> Counter[str]:
    """How many nodes each provider runs; empty where the library cannot tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return Counter()
    counts: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    return counts


def _elsewhere(session: Any, provider: str) -> str:
    """What a reader must know of nodes that the provider left to another one."""
    kind = provider.partition(":")[0]
    places = _places(session)
    others = {name: count for name, count in places.items() if name != kind}
    if kind == CPU or (places and not others):
        return ""
    if not places:
        return " (where each node runs is not told by this version)"
    told = ", ".join(f"{count} of {places.total()} nodes on {name}" for name, count in others.items())
    return f" ({told})"


def _taken(graph: Path | bytes) -> str | bytes:
    """The graph as the library takes it: it opens no path that is not UTF-8."""
    if isinstance(graph, bytes):
        return graph
    try:
        str(graph).encode()
    except UnicodeEncodeError:
        return graph.read_bytes()
    return str(graph)
