"""The same graph in another precision: what an FP16 or INT8 graph would compute if it did not round.

Nodes and tensors keep their names, so that each tensor of an artefact can be held against its own in FP32. Where the
FP32 twin equals PyTorch and the artefact does not, precision is the cause, and every tensor of it can be asked.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from detheads.export.explain.marks import path_of

FLOAT = onnx.TensorProto.FLOAT
HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def float_twin(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph without FP16, BF16 and quantisation, its weights as rounded as they are."""
    twin = restored(model)
    for entry in twin.graph.initializer:
        if entry.data_type in HALVES:
            entry.CopyFrom(numpy_helper.from_array(as_float(entry), entry.name))
    for node in twin.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in HALVES:
                attribute.i = FLOAT
            elif attribute.t.data_type in HALVES:
                attribute.t.CopyFrom(numpy_helper.from_array(as_float(attribute.t), attribute.t.name))
    for entry in (*twin.graph.input, *twin.graph.output):
        if entry.type.tensor_type.elem_type in HALVES:
            entry.type.tensor_type.elem_type = FLOAT
    return twin


def restored(model: onnx.ModelProto, module: str | None = None) -> onnx.ModelProto:
    """A graph in which a module's own nodes take their inputs unquantised, weights as rounded as they are.

    Args:
        module: None for all of them.
    """
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    del twin.graph.value_info[:]
    makers = {output: node for node in twin.graph.node for output in node.output}
    constants = {entry.name: entry for entry in twin.graph.initializer}
    for node in twin.graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"} or module not in {None, path_of(node)}:
            continue
        for place, name in enumerate(node.input):
            node.input[place] = _unquantised(name, makers, constants, twin.graph)
    return twin


def quantised_layers(model: onnx.ModelProto) -> list[str]:
    """Modules with a node of their own that takes a quantised activation, in the order of the graph."""
    makers = {output: node for node in model.graph.node for output in node.output}
    constants = {entry.name for entry in model.graph.initializer}
    found: dict[str, None] = {}
    for node in model.graph.node:
        for name in node.input:
            maker = makers.get(name)
            if maker is not None and maker.op_type == "DequantizeLinear" and maker.input[0] not in constants:
                found.setdefault(path_of(node) or node.name)
    return list(found)


def dequantised(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None":
    """The constant that a DequantizeLinear gives; None where its input is none."""
    if not all(name in constants for name in node.input if name):
        return None
    stored, scale = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
    zero = numpy_helper.to_array(constants[node.input[2]]) if len(node.input) > 2 and node.input[2] else np.int8(0)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    if scale.ndim:
        shape = [1] * stored.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), np.asarray(zero).reshape(shape) if np.ndim(zero) else zero
    return ((stored.astype(np.float32) - np.asarray(zero, np.float32)) * scale.astype(np.float32)).astype(np.float32)


def as_float(tensor: onnx.TensorProto) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """A tensor of any float type as float32."""
    return numpy_helper.to_array(tensor).astype(np.float32)


def _unquantised(
    name: str,
    makers: Mapping[str, onnx.NodeProto],
    constants: dict[str, onnx.TensorProto],
    graph: onnx.GraphProto,
) -> str:
    """What stands before a pair of QuantizeLinear and DequantizeLinear; for a constant, its value in a new one."""
    node = makers.get(name)
    if node is None or node.op_type != "DequantizeLinear":
        return name
    before = makers.get(node.input[0])
    if before is not None and before.op_type == "QuantizeLinear":
        return _unquantised(before.input[0], makers, constants, graph)
    values, plain = dequantised(node, constants), f"{name}/plain"
    if values is None:
        return name
    if plain not in constants:
        constants[plain] = numpy_helper.from_array(values, plain)
        graph.initializer.append(constants[plain])
    return plain
