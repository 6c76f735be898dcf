"""What stays FP32 whatever the graph is converted to: the declared table, with a reason and a source for each row.

Nodes are recognised by their type and by what they are connected to, so that a head of anybody's own is treated alike.
Operators that only move numbers take the type of what they move.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from onnx import NodeProto

from detheads.export.names import DENSE_NAMES, INPUT_NAME
from detheads.export.precision.view import MOVES, PRODUCTS, View, of_decision

SELECTING = frozenset({"ArgMax", "ArgMin", "Compress", "NonMaxSuppression", "NonZero", "TopK", "Unique"})
COMPARING = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
SUMS = frozenset(
    {"CumSum", "GlobalAveragePool", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"}
) | frozenset({"ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare"})
STEEP = frozenset({"Acos", "Acosh", "Asin", "Atan", "Cos", "Exp", "Log", "Pow", "Reciprocal", "Sin", "Sqrt", "Tan"})
NORMALISING = frozenset(
    {"BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization"}
    | {"LpNormalization", "MeanVarianceNormalization", "RMSNormalization"}
)
ACTIVATIONS = frozenset({"Elu", "Gelu", "HardSwish", "LeakyRelu", "Mish", "Relu", "Softplus"})
SAMPLING = frozenset({"GridSample", "RoiAlign"})
BOXES, SCORES = DENSE_NAMES


@dataclass(frozen=True)
class Rule:
    """A row of the table.

    Attributes:
        part: what stays FP32.
        find: the names of its nodes in a graph.
    """

    part: str
    reason: str
    source: str
    find: Callable[[View], set[str]]


def _ends(node: NodeProto) -> bool:
    """Where the arithmetic behind the last layer ends, seen from the outputs."""
    return node.op_type in PRODUCTS | NORMALISING | SAMPLING | {"Softmax"}


def _ends_or_activates(node: NodeProto) -> bool:
    return _ends(node) or node.op_type in ACTIVATIONS


def _of_types(types: frozenset[str]) -> Callable[[View], set[str]]:
    return lambda view: {name for name, node in view.nodes.items() if node.op_type in types}


def _behind(
    tensors: Callable[[View], Iterator[str]], ends: Callable[[NodeProto], bool] = _ends
) -> Callable[[View], set[str]]:
    """What some tensors are made by, up to the last layer."""
    return lambda view: {node.name for tensor in tensors(view) for node in view.upstream(tensor, ends)}


def _outputs(ending: str) -> Callable[[View], Iterator[str]]:
    return lambda view: (name for name in view.producer if name == ending or name.endswith(f".{ending}"))


def _chosen_between(view: View) -> Iterator[str]:
    yield from filter(of_decision, view.producer)
    for node in view.nodes.values():
        if node.op_type in SELECTING | COMPARING:
            yield from (name for name in node.input if name)


def _choices(view: View) -> set[str]:
    return _behind(_chosen_between, _ends_or_activates)(view) | _of_types(SELECTING | COMPARING)(view)


def _grids(view: View) -> Iterator[str]:
    for node in view.nodes.values():
        if node.op_type in SAMPLING:
            yield node.input[1]


def _pixels(view: View) -> set[str]:
    """From the image to the first product."""
    found: set[str] = set()
    reached = {INPUT_NAME}
    for node in view.nodes.values():
        if not _ends(node) and node.op_type != "Shape" and not reached.isdisjoint(node.input):
            found.add(node.name)
            reached.update(node.output)
    return found


def _scores_of_attention(view: View) -> set[str]:
    """Products of two computed tensors that a softmax reads, and what lies between."""
    found: set[str] = set()
    for node in view.nodes.values():
        if node.op_type not in {"Softmax", "LogSoftmax"}:
            continue
        found.add(node.name)
        between = list(view.upstream(node.input[0], _ends))
        found.update(other.name for other in between)
        for tensor in (name for other in (node, *between) for name in other.input):
            product = view.producer.get(tensor)
            if product is not None and product.op_type in PRODUCTS and view.live.issuperset(product.input[:2]):
                found.add(product.name)
    return found


def _norms(view: View) -> set[str]:
    """Sums, roots and reciprocals, the squares that are summed, and the products that a norm divides or sums."""
    found = _of_types(SUMS | STEEP)(view)
    for name in list(found):
        node = view.nodes[name]
        if node.op_type in SUMS:
            found.update(_squares(view, node))
        if node.op_type == "Reciprocal":
            for other in (user for output in node.output for user in view.consumers[output]):
                found.add(other.name)
                found.update(_products_of(view, other))
    return found


def _squares(view: View, node: NodeProto) -> Iterator[str]:
    maker = view.producer.get(node.input[0])
    if maker is not None and maker.op_type in {"Mul", "Pow", "Abs"}:
        yield maker.name
        yield from _products_of(view, maker)


def _products_of(view: View, node: NodeProto) -> Iterator[str]:
    """The products that a node reads, directly or moved."""
    for tensor in node.input:
        maker = view.producer.get(tensor)
        while maker is not None and maker.op_type in MOVES:
            maker = view.producer.get(maker.input[0])
        if maker is not None and maker.op_type in PRODUCTS:
            yield maker.name


POLICY = (
    Rule(
        "pixels",
        "8 bits of a pixel, shifted and scaled, need all of FP16's 11 and more than BF16's 8",
        "number of significant bits of the types, IEEE 754 and bfloat16",
        _pixels,
    ),
    Rule(
        "attention scores",
        "QK^T of DINOv3-type transformers passes 65,504; its softmax turns small differences into large ones",
        "NVIDIA/TensorRT issue 4723; DEIMv2 issues 53, 60, 112 (no boxes in FP16)",
        _scores_of_attention,
    ),
    Rule(
        "normalisation",
        "means and variances are sums over thousands of numbers and their squares",
        "Micikevicius et al. 2018, Mixed precision training, section 3.3; torch.amp keeps them in float32",
        _of_types(NORMALISING),
    ),
    Rule(
        "sampling positions",
        "from 512 px on neighbouring FP16 numbers are half a pixel apart",
        "spacing of float16",
        lambda view: _behind(_grids)(view) | _of_types(SAMPLING)(view),
    ),
    Rule(
        "choices of the head",
        "rounding makes ties of near-equal numbers, and everything behind another choice is another",
        "detheads.ops.decisions",
        _choices,
    ),
    Rule(
        "box decode",
        "exp and stride multiply the error, and from 512 px on neighbouring FP16 numbers are half a pixel apart",
        "spacing of float16; NVIDIA/TensorRT issue 4723",
        _behind(_outputs(BOXES)),
    ),
    Rule(
        "norms, sums and powers",
        "squares use up twice the exponent; a cosine classifier multiplies an error of its norms by up to 100",
        "detheads.headkit.cosine; torch.amp keeps norm, sum, pow, rsqrt, exp and log in float32",
        _norms,
    ),
    Rule(
        "scores",
        "ranking and the score threshold compare near-equal numbers",
        "detheads.ops.scores",
        _behind(_outputs(SCORES), _ends_or_activates),
    ),
)
"""Suppression, which is joined after the conversion, is FP32 as well."""


def kept_by_policy(view: View) -> dict[str, str]:
    """The nodes that stay FP32: name -> part of the table, the first that names it."""
    found: dict[str, str] = {}
    for rule in POLICY:
        for name in rule.find(view):
            found.setdefault(name, rule.part)
    return found
