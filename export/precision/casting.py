"""A graph whose nodes compute in the types that a table gives them, with conversions where the types meet.

NVIDIA's AutoCast (``nvidia-modelopt`` 0.47) does this for one type at a time, and looks through all nodes for each
conversion: 28 s of CPU time for a ViT-tiny with ``split_tower`` (1,975 nodes), where this and the measuring of ranges
take 2 s. It is what the tests hold this against where it is installed.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from detheads.export.precision.view import FLOATS, View
from detheads.export.trace import opset_of

BF16_OPSET = 22
"""The first in which convolutions and poolings take bfloat16."""

FREE = frozenset({"Cast", "Constant", "ConstantOfShape", "DequantizeLinear", "QuantizeLinear", "Range", "Shape"})
"""Operators that make numbers of a type that is asked for by other means."""


NOT_BUILT: Mapping[int, frozenset[str]] = {TensorProto.BFLOAT16: frozenset({"ConvTranspose"})}
"""Operators that TensorRT-RTX 1.7 parses in a type and cannot build ("could not infer output types for deconv")."""


def can_compute_in(node: NodeProto, elem_type: int, opset: int) -> bool:
    """Whether ONNX defines a node for that element type of its numbers."""
    if (
        node.op_type in FREE
        or node.domain not in ("", "ai.onnx")
        or node.op_type in NOT_BUILT.get(elem_type, frozenset())
    ):
        return False
    schema = onnx.defs.get_schema(node.op_type, opset)
    allowed = {entry.type_param_str: entry.allowed_type_strs for entry in schema.type_constraints}
    wanted = f"tensor({helper.tensor_dtype_to_np_dtype(elem_type).name})"
    return wanted in allowed.get(schema.outputs[0].type_str, ())


def cast(dense: ModelProto, types: Mapping[str, int]) -> ModelProto:
    """The graph with some nodes computing in another type; inputs and outputs keep theirs.

    Args:
        types: element type by node name, for nodes that :func:`can_compute_in` it; all others stay FP32.
    """
    view = View(dense)
    opset = opset_of(dense)
    if TensorProto.BFLOAT16 in types.values():
        opset = max(opset, BF16_OPSET)  # those between added types to the operators and changed nothing else here
    model = ModelProto()
    model.CopyFrom(dense)
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:], model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", opset))
    weaver = _Weaver(view, opset)
    for node in dense.graph.node:
        weaver.add(node, types.get(node.name, TensorProto.FLOAT))
    model.graph.node.extend(weaver.nodes)
    read = {name for node in weaver.nodes for name in node.input}
    model.graph.initializer.extend(tensor for tensor in weaver.weights if tensor.name in read | view.named)
    made = {name for node in weaver.nodes for name in node.output}  # a tensor that kept its name kept its type
    model.graph.value_info.extend(entry for entry in dense.graph.value_info if entry.name in made)
    return model


class _Weaver:
    """Nodes as they are written one after another, and which tensors exist in which type."""

    def __init__(self, view: View, opset: int) -> None:
        self.view, self.opset = view, opset
        self.nodes: list[NodeProto] = []
        self.weights = list(view.model.graph.initializer)
        self.made = {(name, kind): name for name, kind in view.types.items()}

    def add(self, node: NodeProto, kind: int) -> None:
        """Write a node that computes in that type."""
        node_ = NodeProto()
        node_.CopyFrom(node)
        if kind != TensorProto.FLOAT:
            self._inputs(node_, kind)
            self.nodes.append(node_)
            for place, name in enumerate(node.output):
                if self.view.types.get(name) == TensorProto.FLOAT:
                    node_.output[place] = _called(name, kind)
                    self.made[name, kind] = node_.output[place]
                    del self.made[name, TensorProto.FLOAT]
                    if name in self.view.named:
                        self._in(name, TensorProto.FLOAT)
        else:
            for place, name in enumerate(node.input):
                if self.view.types.get(name) == TensorProto.FLOAT:
                    node_.input[place] = self._in(name, kind)
            self.nodes.append(node_)

    def _inputs(self, node: NodeProto, kind: int) -> None:
        schema = onnx.defs.get_schema(node.op_type, self.opset)
        computed = schema.outputs[0].type_str
        for place, name in enumerate(node.input):
            if self.view.types.get(name) == TensorProto.FLOAT:
                formal = schema.inputs[min(place, len(schema.inputs) - 1)].type_str
                node.input[place] = self._in(name, kind if formal == computed else TensorProto.FLOAT)

    def _in(self, name: str, kind: int) -> str:
        """The name of a tensor in that type, made now where it is not there yet."""
        if (name, kind) in self.made:
            return self.made[name, kind]
        if name in self.view.weights:
            called = _called(name, kind)
            self.weights.append(_converted(self.view.weights[name], called, kind))
        else:
            called = name if kind == TensorProto.FLOAT else _called(name, kind)
            source = next(self.made[name, other] for other in FLOATS if (name, other) in self.made)
            maker = self.view.producer[name]
            place = list(maker.output).index(name)
            title = f"{maker.name}_to_{FLOATS[kind]}" + (f"_{place}" if place else "")
            self.nodes.append(helper.make_node("Cast", [source], [called], title, to=kind))
        self.made[name, kind] = called
        return called


def _called(name: str, kind: int) -> str:
    return f"{name}.{FLOATS[kind]}"


def _converted(tensor: TensorProto, name: str, kind: int) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):  # what does not fit was kept, unless that was asked for
        return numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(kind)), name)
