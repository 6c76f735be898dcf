"""What FP16, BF16 and their mixture have in common: which nodes are converted, the conversion, and what it came to."""

import math
from collections import Counter
from collections.abc import Mapping

from onnx import ModelProto, TensorProto, numpy_helper

from detheads.export.precision.casting import BF16_OPSET, can_compute_in, cast
from detheads.export.precision.plan import Converted, Plan
from detheads.export.precision.policy import POLICY, kept_by_policy
from detheads.export.precision.ranges import FP16_MAX, HEADROOM_BITS, Range, measure_ranges, too_wide, widest
from detheads.export.precision.view import FLOATS, MOVES, PRODUCTS, View, tensor_types
from detheads.export.trace import opset_of
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress

RANGE = "range"
"""The part of the table that the calibration pictures decide."""

LISTED = 20
"""Modules of largest numbers that are listed."""


def lower(dense: ModelProto, plan: Plan, kind: int, wide: int, on_progress: Progress) -> Converted:
    """Convert what the policy and the measured ranges allow.

    Args:
        kind: element type of what is converted.
        wide: element type of what ``kind`` has too little headroom for.

    Raises:
        UserError: without calibration pictures, or when nothing that multiplies could be converted.
    """
    view = View(dense)
    calibration = plan.pictures()
    ranges = measure_ranges(dense, calibration, on_progress)
    kept = kept_by_policy(view) if plan.keep else {}
    narrow = too_wide(view, ranges) if plan.keep and kind == TensorProto.FLOAT16 else {}
    types = _types(view, kept, narrow, kind, wide)
    model = cast(dense, types)
    count = census(model)
    if not any(count["products"].get(FLOATS[each]) for each in {kind, wide} - {TensorProto.FLOAT}):
        raise UserError(
            f"nothing in this graph may be computed in {plan.precision} ({len(kept)} nodes are kept by the policy and "
            f"{len(narrow)} by their range); export in fp32."
        )
    own = {name: bits for name, bits in narrow.items() if name not in kept}
    details = {
        "precision": plan.precision,
        **count,
        "kept": [
            {"part": rule.part, "reason": rule.reason, "source": rule.source, "nodes": number}
            for rule in POLICY
            if (number := sum(part == rule.part for part in kept.values()))
        ],
        "ranges": {
            "pictures": len(calibration.pictures),
            "limit": FP16_MAX,
            "headroom_bits": HEADROOM_BITS,
            "too_wide": {
                name: round(bits, 2) if math.isfinite(bits) else None
                for name, bits in sorted(own.items(), key=lambda item: item[1])
            },
            "too_wide_in": FLOATS[wide],
            "widest": widest(view, ranges, LISTED),
        },
    }
    return Converted(model, details, tuple(_remarks(plan, view, ranges, own, wide)))


def _types(view: View, kept: Mapping[str, str], narrow: Mapping[str, float], kind: int, wide: int) -> dict[str, int]:
    """Element type by node name, for all nodes that do not stay FP32."""
    opset = opset_of(view.model)
    if TensorProto.BFLOAT16 in {kind, wide}:
        opset = max(opset, BF16_OPSET)
    types: dict[str, int] = {}
    for name, node in view.nodes.items():
        if view.live.isdisjoint(node.output) or not view.floats(node.output):
            continue
        wanted = wide if name in narrow else kind
        if node.op_type in MOVES:
            made = [view.producer.get(tensor) for tensor in view.floats(node.input) if tensor in view.live]
            before = {types.get(maker.name, TensorProto.FLOAT) if maker else TensorProto.FLOAT for maker in made}
            wanted = before.pop() if len(before) == 1 else TensorProto.FLOAT
        elif name in kept:
            continue
        if wanted != TensorProto.FLOAT and can_compute_in(node, wanted, opset):
            types[name] = wanted
    return types


def census(model: ModelProto) -> dict[str, dict[str, int]]:
    """How many nodes that compute, how many of these that multiply, and bytes of weights, by type."""
    types = tensor_types(model)
    nodes: Counter[str] = Counter()
    products: Counter[str] = Counter()
    for node in model.graph.node:
        kind = FLOATS.get(types.get(node.output[0], 0))
        if kind is None or node.op_type in MOVES | {"Cast", "Constant"}:
            continue
        nodes[kind] += 1
        products[kind] += node.op_type in PRODUCTS
    weights: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        if tensor.data_type in FLOATS:
            weights[FLOATS[tensor.data_type]] += numpy_helper.to_array(tensor).nbytes
    return {"nodes": dict(nodes), "products": dict(products), "weight_bytes": dict(weights)}


def _remarks(plan: Plan, view: View, ranges: Mapping[str, Range], own: Mapping[str, float], wide: int) -> list[str]:
    if not plan.keep:
        return ["everything was converted, whatever its range: an experiment"]
    if not own:
        return []
    first = widest(view, ranges, 1)[0]
    return [
        f"{len(own)} nodes beyond the declared policy stay {FLOATS[wide]}: numbers there come within "
        f"{HEADROOM_BITS:g} bits of FP16's largest, {FP16_MAX:g} (up to {first['largest']:.4g} in {first['node']})"
    ]
