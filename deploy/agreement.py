"""A graph file held against its manifest, whatever library is going to run it."""

from pathlib import Path
from typing import Final

from detheads.foundation.errors import UserError
from detheads.foundation.manifest import BundleManifest
from detheads.foundation.onnx_summary import GraphSummary, summarise

INPUT: Final = "images"
OUTPUTS: Final = {"boxes": "float32", "scores": "float32", "labels": "int32"}
"""What a graph gives for each of its heads, and the type of each."""


def require_agreement(path: Path, manifest: BundleManifest) -> GraphSummary:
    """Refuse a graph that is not the one its manifest speaks of.

    Raises:
        UserError: naming what they disagree about.
    """
    graph = summarise(path)
    inputs = {tensor.name: tensor.dtype for tensor in graph.inputs}
    outputs = {tensor.name: tensor.dtype for tensor in graph.outputs}
    wanted = {manifest.prefix(head) + name: kind for head in manifest.heads for name, kind in OUTPUTS.items()}
    if inputs != {INPUT: "uint8"} or outputs != wanted:
        raise UserError(f"{path} has inputs {inputs} and outputs {outputs}; it is not a graph of 'detheads export'.")
    shape = list(graph.inputs[0].shape[1:])
    if shape != [3, manifest.input.height, manifest.input.width]:
        raise UserError(
            f"{path} takes images {shape}, bundle.json says "
            f"[3, {manifest.input.height}, {manifest.input.width}]; export the bundle again."
        )
    for key, value in manifest.graph_metadata().items():
        if graph.metadata.get(key) != value:
            what = key.removeprefix("detheads.")
            raise UserError(f"bundle.json and {path} disagree about {what}; one was changed, export the bundle again.")
    return graph
