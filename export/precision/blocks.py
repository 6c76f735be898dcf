"""Layers that may be INT8, and the blocks in which they change precision together."""

from collections.abc import Container, Sequence
from dataclasses import dataclass

import onnx

from detheads.export.precision.policy import kept_by_policy
from detheads.export.precision.view import View

WEIGHTED = ("Conv", "MatMul", "Gemm")
"""Operators whose second input holds weights, and for which every host has INT8 kernels."""


@dataclass(frozen=True)
class Layer:
    """Weights and the nodes that read them: several where a head applies one module to every level.

    Attributes:
        weight: name of the tensor.
        nodes: names of the nodes.
        block: see :func:`block_of`.
    """

    weight: str
    nodes: tuple[str, ...]
    block: str


def weighted_layers(dense: onnx.ModelProto, kept: Container[str] = ()) -> list[Layer]:
    """The layers of a dense graph that may be INT8, in its order: those with trained weights as a constant.

    Args:
        kept: names of nodes that stay in higher precision; then all nodes of their layer do.
    """
    constants = {tensor.name: tensor for tensor in dense.graph.initializer if tensor.data_type == tensor.FLOAT}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in dense.graph.node:
        if node.op_type not in WEIGHTED or node.input[1] not in constants:
            continue
        if node.op_type != "Conv" and len(constants[node.input[1]].dims) != 2:  # one number a channel needs a matrix
            continue
        readers.setdefault(node.input[1], []).append(node)
    return [
        Layer(weight, tuple(node.name for node in nodes), block_of(nodes[0].name))
        for weight, nodes in readers.items()
        if not any(node.name in kept for node in nodes)
    ]


def block_of(node: str) -> str:
    """The block of a node ``MODULE.PATH/OpType``.

    Inside a numbered module (a block of a backbone, a stage of a tower, a layer of a decoder) the parent of its module:
    ``backbone.blocks.3.mlp`` for ``backbone.blocks.3.mlp.fc1/MatMul``. Elsewhere the module itself.
    """
    path = node.rpartition("/")[0]
    parent = path.rpartition(".")[0]
    return parent if any(part.isdigit() for part in parent.split(".")) else path or "graph"


def in_blocks(layers: Sequence[Layer]) -> dict[str, list[Layer]]:
    """The layers by block, in the order of the graph."""
    blocks: dict[str, list[Layer]] = {}
    for layer in layers:
        blocks.setdefault(layer.block, []).append(layer)
    return blocks


def kept_float(dense: onnx.ModelProto) -> dict[str, str]:
    """The nodes whose INT8 is never tried, and why: what the policy names, and patch embeddings.

    A patch embedding reads pixels and is a small part of the arithmetic; exporters to TensorRT keep it out of INT8.
    """
    patches = {node.name: "patch embedding" for node in dense.graph.node if ".patch_embed." in node.name}
    return kept_by_policy(View(dense)) | patches
