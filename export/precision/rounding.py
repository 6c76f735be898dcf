"""A converted graph as any machine can run it: FP32 arithmetic, every result rounded to the type the graph gives it.

ONNX Runtime's CPU provider has no arithmetic in BF16, and runs most of FP16 in FP32 *without rounding in between*: the
conversions between two nodes are removed, so that 300 * 300 / 300 is 300 there and infinite on a GPU. A proof on that
would say nothing of FP16. Here each result is rounded, and overflows as it would.

What differs from a GPU: sums inside a product or convolution are exact to FP32, as tensor cores add them, and each
operator rounds once, also where a compiler fuses several and rounds less.
"""

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from detheads.export.precision.view import FLOATS, MOVES, tensor_types

EXACT = MOVES | {"Abs", "Max", "MaxPool", "Min", "Neg", "ReduceMax", "ReduceMin", "Relu", "Where"}
"""Operators that give numbers they were given, or their negatives: there is nothing to round."""

LOW: frozenset[int] = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})


def low_types(model: ModelProto) -> set[int]:
    """The types of a graph that the CPU does not compute in."""
    converted = {_target(node) for node in model.graph.node}
    return set(LOW) & (converted | {tensor.data_type for tensor in model.graph.initializer})


def rounded(model: ModelProto) -> ModelProto:
    """The same graph with the same names in FP32, every result rounded to the type that the graph gives it."""
    types = tensor_types(model)
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    del graph.node[:], graph.initializer[:]
    for tensor in model.graph.initializer:
        if tensor.data_type in LOW:
            graph.initializer.append(numpy_helper.from_array(_as_fp32(tensor), tensor.name))
        else:
            graph.initializer.append(tensor)
    for node in model.graph.node:
        graph.node.extend(_rounded(node, types))
    return result


def _rounded(node: NodeProto, types: dict[str, int]) -> list[NodeProto]:
    """The nodes that give what a node gives."""
    kinds = {name: types.get(name) for name in node.output}
    copy = NodeProto()
    copy.CopyFrom(node)
    if node.op_type == "Cast" and _target(node) in LOW:
        copy.attribute[0].i = TensorProto.FLOAT
    nodes = [copy]
    if node.op_type in EXACT:
        return nodes
    for place, (name, kind) in enumerate(kinds.items()):
        if kind in LOW:
            exact, low = f"{name}/exact", f"{name}/{FLOATS[kind]}"
            copy.output[place] = exact
            nodes.append(helper.make_node("Cast", [exact], [low], low, to=kind))
            nodes.append(helper.make_node("Cast", [low], [name], exact, to=TensorProto.FLOAT))
    return nodes


def _target(node: NodeProto) -> int:
    """The type that a conversion converts to; 0 for any other node."""
    if node.op_type != "Cast":
        return 0
    return next(int(entry.i) for entry in node.attribute if entry.name == "to")


def _as_fp32(tensor: TensorProto) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return numpy_helper.to_array(tensor).astype(np.float32)
