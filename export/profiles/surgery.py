"""Small changes to an exported graph: other outputs, another input type, one image, a part of it.

Every function takes a model and returns a new one; the tensors that a proof reads inside keep their names.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser

from detheads.export.precision.view import tensor_types
from detheads.foundation.errors import UserError

Shape = Sequence[int | str]


def with_outputs(
    model: onnx.ModelProto,
    place: str,
    text: str,
    outputs: Mapping[str, Shape],
    constants: Mapping[str, NDArray[np.generic]] | None = None,
) -> onnx.ModelProto:
    """The model with further nodes at its end, and what they compute, float32, as its only outputs.

    Args:
        place: what the names of the nodes, their inner tensors and constants begin with.
        text: the nodes in ONNX's own notation. They read outputs of the model by their names.
        outputs: shape of each; a string is the name of a free size.
        constants: by the name that the text has for them.
    """
    changed = _copy(model)
    graph = changed.graph
    known = {entry.name for entry in graph.output} | outputs.keys()

    def named(names: Sequence[str]) -> list[str]:
        return [name if name in known else f"{place}/{name}" for name in names]

    for node in parser.parse_graph(f"{place} () => () {{ {text} }}").node:
        node.input[:], node.output[:] = named(node.input), named(node.output)
        node.name = f"{place}/{node.output[0].removeprefix(f'{place}/')}/{node.op_type}"
        graph.node.append(node)
    graph.initializer.extend(
        numpy_helper.from_array(array, f"{place}/{name}") for name, array in (constants or {}).items()
    )
    graph.value_info.extend(graph.output)
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in outputs.items()
    )
    return changed


def for_one_image(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a batch of 1 in the shapes of its inputs and outputs, for hosts that know no free sizes."""
    changed = _copy(model)
    for entry in (*changed.graph.input, *changed.graph.output):
        first = entry.type.tensor_type.shape.dim[0]
        if first.dim_param:
            first.dim_value = 1
    del changed.graph.value_info[:]  # shapes with the free size
    return changed


def with_float_input(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model with float32 values 0..255 instead of uint8 at the input ``name``.

    Where the graph converts its input itself, or asks for its shape, nothing else changes; what computes in uint8 gets
    whole numbers again, which TensorRT does not take.
    """
    changed = _copy(model)
    graph = changed.graph
    (entry,) = (each for each in graph.input if each.name == name)
    entry.type.tensor_type.elem_type = TensorProto.FLOAT
    readers = [node for node in graph.node if name in node.input and node.op_type not in {"Cast", "Shape"}]
    if not readers:
        return changed
    whole = f"{name}_uint8"
    _rename_input(readers, name, whole)
    graph.node.insert(0, helper.make_node("Cast", [name], [whole], name=f"{whole}/Cast", to=TensorProto.UINT8))
    return changed


def without_beginning(
    model: onnx.ModelProto, inputs: Mapping[str, str], shapes: Mapping[str, Shape]
) -> onnx.ModelProto:
    """What a model computes of some of its inner tensors, which become its inputs, float32 at the outside.

    Args:
        inputs: inner tensor -> name of the input that takes its place. One that is not read becomes none.
        shapes: of each input, by its name.

    Raises:
        UserError: when an output depends on something else than these tensors.
    """
    changed = _copy(model)
    graph = changed.graph
    types = tensor_types(model)
    _ask_for_the_batch(graph, next(iter(inputs)))
    made_by = {output: node for node in graph.node for output in node.output}
    constant = {tensor.name for tensor in graph.initializer}
    wanted, needed = [entry.name for entry in graph.output], set[str]()
    while wanted:
        tensor = wanted.pop()
        if tensor in needed or not tensor:
            continue
        needed.add(tensor)
        if tensor in inputs:
            continue
        if tensor in made_by:
            wanted += _read_by(made_by[tensor])
        elif tensor not in constant:
            raise UserError(f"the head reads {tensor!r} besides the features {', '.join(inputs.values())}.")
    kept = [node for node in graph.node if needed.intersection(node.output) and not inputs.keys() & set(node.output)]
    read = {inner: outer for inner, outer in inputs.items() if inner in needed}
    casts = []
    for inner, outer in read.items():
        kind = types.get(inner, TensorProto.FLOAT)
        if kind == TensorProto.FLOAT and inner == outer:
            continue
        casts.append(helper.make_node("Cast", [outer], [inner], name=f"{outer}/Cast", to=kind))
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    described = [entry for entry in graph.value_info if entry.name in needed]
    for field, values in (("node", [*casts, *kept]), ("initializer", weights), ("value_info", described)):
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    del graph.input[:]
    graph.input.extend(
        helper.make_tensor_value_info(outer, TensorProto.FLOAT, list(shapes[outer])) for outer in read.values()
    )
    return changed


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    return changed


def _ask_for_the_batch(graph: onnx.GraphProto, tensor: str) -> None:
    """Nodes that ask an input of the graph for its batch size ask ``tensor`` instead."""
    given = {entry.name for entry in graph.input}
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] in given:
            asked = {attribute.name: attribute.i for attribute in node.attribute}
            if asked.get("start", 0) == 0 and asked.get("end") == 1:
                node.input[0] = tensor


def _rename_input(nodes: Sequence[onnx.NodeProto], old: str, new: str) -> None:
    for node in nodes:
        node.input[:] = [new if name == old else name for name in node.input]


def _read_by(node: onnx.NodeProto) -> list[str]:
    """What a node reads, the tensors that its subgraphs take from outside included."""
    names = list(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            inside = {entry.name for entry in (*graph.input, *graph.initializer)}
            inside |= {output for inner in graph.node for output in inner.output}
            names += [name for inner in graph.node for name in _read_by(inner) if name not in inside]
            names += [entry.name for entry in graph.output if entry.name not in inside]
    return names
