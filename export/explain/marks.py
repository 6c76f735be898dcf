"""Which tensor of an exported graph leaves which PyTorch module, read off its nodes' names (``MODULE.PATH/OpType``).

Nothing of this is stored in a file: precision conversion keeps the names of nodes and inserts casts and quantisation
between them, which are looked through here.
"""

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping
from functools import cached_property

import onnx

from detheads.export.names import DENSE_NAMES, decision_names

BETWEEN = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear", "Identity"})
"""Operators that change a tensor's precision only."""

HEAVY = frozenset(
    {"Conv", "ConvTranspose", "MatMul", "Gemm", "LayerNormalization", "InstanceNormalization", "Softmax", "Resize"}
)
"""Operators whose sums round. Their number on the way to a tensor is its depth."""


ROUNDING = {"int8": 1 / 254, "bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24}
"""Largest relative error of storing one number, coarsest first. INT8: of the largest number of its tensor."""

_CASTS = {onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.BFLOAT16: "bfloat16"}


def dense_part(model: onnx.ModelProto, prefix: str = "") -> onnx.ModelProto:
    """The graph up to the tensors before suppression, which are its outputs; nothing else is changed.

    Args:
        prefix: of the head's tensors, in a graph of several heads.
    """
    producers = {output: node for node in model.graph.node for output in node.output}
    wanted: set[str] = set()
    queue = [f"{prefix}{name}" for name in DENSE_NAMES] + decisions(producers, prefix)
    while queue:
        value = queue.pop()
        node = producers.get(value)
        if value in wanted:
            continue
        wanted.add(value)
        if node is not None:
            queue.extend(name for name in (*node.input, *_captured(node)) if name)
    part = onnx.ModelProto()
    part.CopyFrom(model)
    graph = part.graph
    nodes = [node for node in model.graph.node if not wanted.isdisjoint(node.output)]
    constants = [entry for entry in model.graph.initializer if entry.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    typed = {entry.name: entry for entry in (*graph.value_info, *graph.output)}
    outputs = [typed[f"{prefix}{name}"] for name in DENSE_NAMES]
    del graph.output[:]
    graph.output.extend(outputs)
    del graph.value_info[:]  # may be stale behind a conversion
    return part


def decisions(known: Container[str], prefix: str = "") -> list[str]:
    """Names of what a head's decisions chose between and chose, of each decision in turn, as far as they are known."""
    found: list[str] = []
    while all(name in known for name in decision_names(len(found) // 2, prefix)):
        found += decision_names(len(found) // 2, prefix)
    return found


class GraphMap:
    """A graph by the modules that its nodes came from.

    Attributes:
        order: of each tensor that depends on the input, the place of the node that makes it.
        depth: of each of them, how many operators that round lie on the longest way to it.
        precision: of each of them, the coarsest on the ways to it, as in ``ROUNDING``.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._nodes = list(graph.node)
        self._outputs = {output.name for output in graph.output}
        self.order: dict[str, int] = {entry.name: -1 for entry in graph.input}
        self.depth: dict[str, int] = dict.fromkeys(self.order, 0)
        self.precision: dict[str, str] = dict.fromkeys(self.order, "float32")
        self._consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for place, node in enumerate(self._nodes):
            known = [name for name in node.input if name in self.order]
            if node.op_type == "Shape" or not known:
                continue
            for name in known:
                self._consumers[name].append(node)
            for output in node.output:
                self.order[output] = place
                self.depth[output] = max(self.depth[name] for name in known) + (node.op_type in HEAVY)
                self.precision[output] = coarsest([_own_precision(node), *(self.precision[name] for name in known)])

    def nodes_of(self, module: str) -> list[onnx.NodeProto]:
        """The nodes of a module and of those inside it, in order."""
        return [node for node in self._nodes if within(path_of(node), module)]

    def leaving(self, module: str) -> list[str]:
        """Tensors made in a module that are used outside, in the order of their making."""
        return self._leaving.get(module, [])

    def entering(self, module: str) -> list[str]:
        """Tensors from outside that a module uses, in the order of their first use."""
        found: dict[str, None] = {}
        for node in self.nodes_of(module):
            for name in node.input:
                source = self.source(name)
                if source in self.order and not within(path_of(self._maker(source)), module):
                    found.setdefault(source)
        return list(found)

    def source(self, value: str) -> str:
        """The tensor that ``value`` is in another precision; itself where it is none."""
        while (node := self._maker(value)) is not None and node.op_type in BETWEEN and self.order[node.input[0]] >= 0:
            value = node.input[0]
        return value

    def following(self, value: str, marked: Callable[[str], bool]) -> set[str]:
        """The next marked tensors that depend on ``value``."""
        found: set[str] = set()
        seen: set[str] = set()
        queue = [value]
        while queue:
            for node in self._consumers.get(queue.pop(), ()):
                for output in node.output:
                    if output in seen or output not in self.order:
                        continue
                    seen.add(output)
                    (found.add if marked(output) else queue.append)(output)
        return found

    def _maker(self, value: str) -> onnx.NodeProto | None:
        place = self.order.get(value, -1)
        return self._nodes[place] if place >= 0 else None

    @cached_property
    def _leaving(self) -> Mapping[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for node in self._nodes:
            path = path_of(node)
            for value in node.output if path and node.op_type not in BETWEEN else ():
                if value not in self.order:
                    continue
                users = list(self._users(value))
                for module in _upwards(path):
                    if value in self._outputs or any(not within(user, module) for user in users):
                        found[module].append(value)
        return found

    def _users(self, value: str) -> Iterable[str]:
        """Modules of the nodes that use a tensor, in whatever precision."""
        for node in self._consumers.get(value, ()):
            if node.op_type in BETWEEN:
                for output in node.output:
                    if output in self._outputs:
                        yield ""
                    yield from self._users(output)
            else:
                yield path_of(node)


def path_of(node: onnx.NodeProto | None) -> str:
    """The module that a node came from: ``"backbone.maps.model.blocks.0"``; empty where its name tells none."""
    if node is None:
        return ""
    module, slash, _ = node.name.partition("/")
    return module if slash else ""


def within(path: str, module: str) -> bool:
    """Whether ``path`` is a module or lies inside it."""
    return path == module or path.startswith(f"{module}.")


def _upwards(path: str) -> Iterable[str]:
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        yield ".".join(parts[:length])


def coarsest(precisions: Iterable[str]) -> str:
    """Of several precisions the one that rounds most."""
    return max(precisions, key=lambda name: ROUNDING[name])


def _own_precision(node: onnx.NodeProto) -> str:
    if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
        return "int8"
    if node.op_type == "Cast":
        return _CASTS.get(next(entry.i for entry in node.attribute if entry.name == "to"), "float32")
    return "float32"


def _captured(node: onnx.NodeProto) -> Iterable[str]:
    """What the bodies of a node take from outside, and more."""
    for attribute in node.attribute:
        for body in [attribute.g, *attribute.graphs] if attribute.ByteSize() else ():
            for inner in body.node:
                yield from inner.input
                yield from _captured(inner)
