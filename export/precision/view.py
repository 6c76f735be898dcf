"""An ONNX graph looked at from its tensors: who makes them, who reads them, of which type they are."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property

import onnx
from onnx import ModelProto, NodeProto, TensorProto

FLOATS: Mapping[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
"""The types that numbers are computed in."""

MOVES = frozenset(
    {"Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad"}
    | {"Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
"""Operators that move numbers and compute none."""

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"})
"""Operators whose work is multiplying and adding."""

INFERRED_BYTES = 1024
"""Initialisers that are larger hold weights, whose values say nothing about shapes."""


class View:
    """A graph without subgraphs, whose nodes have names of their own.

    Attributes:
        nodes: by name, in the order of the graph.
        weights: initialisers by name.
        producer: the node that makes a tensor.
        consumers: the nodes that read a tensor, each once for every input that reads it.
        named: tensors that others know by their names: outputs, and what the decisions of a head are called.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.nodes = {node.name: node for node in model.graph.node}
        if len(self.nodes) != len(model.graph.node):
            raise ValueError("nodes share names, or have none")
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.producer = {name: node for node in model.graph.node for name in node.output if name}
        self.named = {entry.name for entry in model.graph.output} | {
            name for name in self.producer if of_decision(name)
        }
        self.consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                if name:
                    self.consumers[name].append(node)

    @cached_property
    def types(self) -> dict[str, int]:
        """Element type of every tensor."""
        return tensor_types(self.model)

    @cached_property
    def live(self) -> set[str]:
        """The tensors that depend on the graph's input; all others are constants."""
        found = {entry.name for entry in self.model.graph.input} - self.weights.keys()
        for node in self.model.graph.node:
            if not found.isdisjoint(node.input):
                found.update(node.output)
        return found

    def floats(self, names: Iterable[str]) -> list[str]:
        """Those of some tensors that hold floating-point numbers."""
        return [name for name in names if self.types.get(name) in FLOATS]

    def upstream(self, tensor: str, stop: Callable[[NodeProto], bool]) -> Iterator[NodeProto]:
        """The nodes that a live tensor is made by, each once, without those at which to stop and what is behind them.

        A shape that is read from a tensor leads nowhere: only floating-point tensors are followed.
        """
        seen: set[str] = set()
        waiting = [tensor]
        while waiting:
            name = waiting.pop()
            node = self.producer.get(name)
            if node is None or node.name in seen or name not in self.live or stop(node):
                continue
            seen.add(node.name)
            yield node
            waiting += self.floats(node.input)


def of_decision(tensor: str) -> bool:
    """Whether a tensor is what a head chooses between, or its choice (:func:`detheads.export.names.decision_names`)."""
    return tensor.rpartition(".")[2].startswith("decision")


def module_of(node_name: str) -> str:
    """The PyTorch module that a node came from, by its dotted path; empty for the outermost."""
    return node_name.rpartition("/")[0]


def tensor_types(model: ModelProto) -> dict[str, int]:
    """Element type of every tensor of the main graph, as ONNX infers them."""
    graph = onnx.shape_inference.infer_shapes(without_weights(model)).graph
    found = {entry.name: entry.type.tensor_type.elem_type for entry in (*graph.value_info, *graph.input, *graph.output)}
    return found | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def without_weights(model: ModelProto) -> ModelProto:
    """The same graph, large initialisers replaced by inputs of their shape: inference need not copy their values."""
    light = ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    light.graph.name = model.graph.name or "graph"
    light.graph.node.extend(model.graph.node)
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if tensor.ByteSize() > INFERRED_BYTES:
            light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            light.graph.initializer.append(tensor)
    return light
