"""Which operators of a bundle's graph edge runtimes would refuse: by their lists, or by asking what is installed."""

import importlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detheads.deploy.edge_tables import EDGE_PROVIDERS, FOLDED, EdgeProvider
from detheads.foundation.bundle import onnx_file, read_manifest
from detheads.foundation.onnx_summary import GraphSummary, summarise

FIX_BATCH = "python -m onnxruntime.tools.make_dynamic_shape_fixed --dim_param batch --dim_value 1 IN.onnx OUT.onnx"
TENSORRT = ("tensorrt", "tensorrt_rtx")


@dataclass(frozen=True)
class Verdict:
    """What one runtime says of a graph.

    Attributes:
        runtime: its name.
        asked: the list that was read, or the library that was asked; empty where neither was possible.
        refused: operators that it would leave to another one, with their number; None where it was not asked.
        notes: what else to know.
    """

    runtime: str
    asked: str
    refused: dict[str, int] | None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"runtime": self.runtime, "asked": self.asked, "refused": self.refused, "notes": list(self.notes)}

    def told(self, nodes: int) -> str:
        """One line for a reader. ``nodes``: of the graph."""
        if self.refused is None:
            return "not asked"
        if not self.refused:
            return "takes every operator"
        named = ", ".join(f"{count} {name}" for name, count in self.refused.items())
        return f"would refuse {sum(self.refused.values())} of {nodes} nodes: {named}"


def check(bundle: Path) -> tuple[GraphSummary, list[Verdict]]:
    """Hold the bundle's graph against every runtime that is known here.

    Raises:
        UserError: when the folder is no bundle, or its graph is not the one that the manifest describes.
    """
    manifest = read_manifest(bundle)
    path = onnx_file(bundle, manifest)
    graph = summarise(path)
    verdicts = [_listed(provider, graph, manifest.precision) for provider in EDGE_PROVIDERS]
    return graph, [*verdicts, *_openvino(path), *_tensorrt(path)]


def _listed(provider: EdgeProvider, graph: GraphSummary, precision: str) -> Verdict:
    refused = {
        name: count
        for name, count in graph.nodes.most_common()
        if name not in provider.operators and name not in FOLDED
    }
    free = any(isinstance(axis, str) for tensor in graph.inputs for axis in tensor.shape)
    inner = sum(graph.inner_nodes.values())
    notes = [provider.conditions]
    if precision not in provider.precisions:
        notes.append(f"it does not compute in {precision}")
    if inner:
        notes.append(f"the {inner} nodes inside loops stay with the CPU")
    if free and not provider.free_batch:
        notes.append(f"the batch size is free and it wants it fixed: {FIX_BATCH}")
    return Verdict(provider.name, provider.source, refused, tuple(notes))


def _openvino(path: Path) -> Iterator[Verdict]:
    """OpenVINO's own answer for each device of this machine."""
    try:
        openvino = importlib.import_module("openvino")
    except ImportError:
        yield Verdict("OpenVINO", "", None, ("not installed: pip install 'detheads[openvino]'",))
        return
    core = openvino.Core()
    asked = f"openvino {openvino.__version__.partition('-')[0]}, query_model"
    try:
        model = core.read_model(path.read_bytes())
    except RuntimeError as error:
        yield Verdict("OpenVINO", asked, None, (f"it cannot read the graph: {_line(error)}",))
        return
    for device in core.available_devices:
        taken = core.query_model(model, device)
        refused = Counter(node.get_type_name() for node in model.get_ops() if node.get_friendly_name() not in taken)
        yield Verdict(f"OpenVINO {device}", asked, dict(refused.most_common()))


def _tensorrt(path: Path) -> Iterator[Verdict]:
    """The answer of the ONNX parser of each TensorRT that is installed; it needs no GPU."""
    found = False
    for name in TENSORRT:
        try:
            library = importlib.import_module(name)
        except (ImportError, OSError):  # OSError: the package is there, its shared libraries are not
            continue
        found = True
        yield _parsed(library, name, path)
    if not found:
        yield Verdict("TensorRT", "", None, ("neither tensorrt nor tensorrt_rtx is installed",))


def _parsed(library: Any, name: str, path: Path) -> Verdict:
    asked = f"{name} {library.__version__}, supports_model_v2"
    silent = _log(library)
    try:
        network = library.Builder(silent).create_network(0)
        parser = library.OnnxParser(network, silent)
        parser.supports_model_v2(path.read_bytes())
    except (AttributeError, TypeError, RuntimeError) as error:  # an older parser; a library that wants a GPU
        return Verdict(name, asked, None, (f"it cannot be asked here: {_line(error)}",))
    refused = Counter(parser.get_error(index).node_operator() or "?" for index in range(parser.num_errors))
    return Verdict(name, asked, dict(refused.most_common()), ("the parser's word; only building an engine proves it",))


def _log(library: Any) -> Any:
    class Log(library.ILogger):  # type: ignore[name-defined,misc]  # the base class is known at run time only
        """Says nothing: what the parser refuses is read from it."""

        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            pass

    return Log()


def _line(error: Exception) -> str:
    """The last line of an error that says something; OpenVINO's begin with places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("--")), lines[0] if lines else type(error).__name__)
