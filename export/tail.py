"""The end of the shipped graph: from dense boxes and scores to final detections, with standard operators only.

Suppression is greedy and exact. Order and arithmetic are torchvision's, as in evaluation (:mod:`detheads.ops.nms`):
of equal scores the lower flat index ``n * K + k`` comes first, and of two boxes of a class the lower one goes where
``intersection / (area + area - intersection) > nms_iou``, widths without the ``+ 1`` of old.

It is an ONNX ``Loop``: each step takes the best candidate left and removes what it suppresses. Measured against the
other form that parses in TensorRT (overlaps of all pairs of candidates once, then ``keep <- not beaten by a kept one``
until nothing changes) and against the steps unrolled; 1000 candidates among 2134 boxes of one class, one thread of an
AMD EPYC, ONNX Runtime 1.32, best of 25 runs; engine part by TensorRT-RTX 1.7, one architecture, batch 1:4:8:

============ ============================== ========= ======= ===== =====================================
form         ms with 10, 40, 100 detections engine MB build s nodes steps one after another; memory
============ ============================== ========= ======= ===== =====================================
greedy loop  0.22, 0.65, 1.53               2.0       0.5        82 one a detection; candidates
fixed point  2.00, 2.02, 2.06               2.4       0.3        82 3 to 6; candidates x candidates
unrolled     2.1 to 2.3                     17.0      26.7     1600 one a detection that might be; candidates
============ ============================== ========= ======= ===== =====================================

On a GPU, where neither was executed, the few steps of the fixed point may win; on every CPU the greedy loop does, and
its memory grows with the candidates, not with their square.
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper, parser

from detheads.export.names import DENSE_NAMES, OUTPUT_NAMES
from detheads.foundation.manifest import Thresholds

SUPPRESSION = "suppression"
"""What the names of the tail's nodes and inner tensors begin with, after the prefix of their head."""

Constants = dict[str, NDArray[np.generic]]

# Boxes are clipped here only to see which have area inside the input: suppression sees them as the head gave them.
RANK = """
    least = Max(dense_boxes, zero)
    inside = Min(least, limits)
    left, top, right, bottom = Split<axis=2, num_outputs=4>(inside)
    wide = Greater(right, left)
    tall = Greater(bottom, top)
    seen = And(wide, tall)
    seen_scores = Where(seen, dense_scores, zero)
    pairs = Reshape(seen_scores, flat)
    ranked_scores, ranked = TopK<axis=1>(pairs, count)
    ranked_labels = Mod(ranked, classes)
    ranked_rows = Div(ranked, classes)
    ranked_places = Unsqueeze(ranked_rows, last)
    ranked_boxes = GatherND<batch_dims=1>(dense_boxes, ranked_places)
    possible = Greater(ranked_scores, floor)
"""

# What is open has its score, everything else 0. ONNX defines the order of TopK between equal scores; OpenVINO has
# another one. So the best candidate is looked for by score and then by precedence, and a detection's turn, not its
# place in that TopK, gives the order of the results. Boxes that do not meet share an area of 0 or less, which is no
# overlap either. Precedence is a float, which every TensorRT can sort: unique up to
# 2^24 pairs (80 classes at 2048 pixels have 7 million); beyond, neighbours of equal score come in the engine's order.
SUPPRESS = """
    x1_column, y1_column, x2_column, y2_column = Split<axis=2, num_outputs=4>(ranked_boxes)
    x1 = Squeeze(x1_column, last)
    y1 = Squeeze(y1_column, last)
    x2 = Squeeze(x2_column, last)
    y2 = Squeeze(y2_column, last)
    width = Sub(x2, x1)
    height = Sub(y2, y1)
    area = Mul(width, height)
    label = Cast<to=1>(ranked_labels)
    area_column = Unsqueeze(area, last)
    label_column = Unsqueeze(label, last)
    table = Concat<axis=2>(ranked_boxes, area_column, label_column)
    behind = Sub(number_of_pairs, ranked)
    precedence = Cast<to=1>(behind)
    all_open = Where(possible, ranked_scores, zero)
    none_found = Mul(all_open, zero)
    first_score = ReduceMax<keepdims=1>(all_open, second)
    first_of_all = ReduceMax<keepdims=0>(first_score)
    begin = Greater(first_of_all, zero)
    rest, turns, last_score = Loop(steps, begin, all_open, none_found, first_score) <body = step (
        int64 step_number, bool going,
        float[batch, $CANDIDATES] open, float[batch, $CANDIDATES] found, float[batch, 1] best_score
    ) => (
        bool go_on,
        float[batch, $CANDIDATES] still_open, float[batch, $CANDIDATES] now_found, float[batch, 1] next_score
    ) {
        tied = Equal(open, best_score)
        claims = Where(tied, precedence, zero)
        best = ArgMax<axis=1, keepdims=1>(claims)
        best_row = GatherND<batch_dims=1>(table, best)
        best_x1, best_y1, best_x2, best_y2, best_area, best_label = Split<axis=1, num_outputs=6>(best_row)
        low_x = Max(x1, best_x1)
        low_y = Max(y1, best_y1)
        high_x = Min(x2, best_x2)
        high_y = Min(y2, best_y2)
        side_x = Sub(high_x, low_x)
        side_y = Sub(high_y, low_y)
        shared_x = Relu(side_x)
        shared = Mul(shared_x, side_y)
        areas = Add(best_area, area)
        joined = Sub(areas, shared)
        iou = Div(shared, joined)
        overlapping = Greater(iou, nms_iou)
        same_class = Equal(label, best_label)
        beaten = And(overlapping, same_class)
        taken = Equal(positions, best)
        closed = Or(beaten, taken)
        still_open = Where(closed, zero, open)
        unfinished = Greater(best_score, zero)
        detected = And(taken, unfinished)
        turn_number = Sub(steps, step_number)
        turn = Cast<to=1>(turn_number)
        now_found = Where(detected, turn, found)
        next_score = ReduceMax<keepdims=1>(still_open, second)
        next_of_all = ReduceMax<keepdims=0>(next_score)
        go_on = Greater(next_of_all, zero)
    }>
    order, position = TopK<axis=1>(turns, steps_list)
    used = Greater(order, zero)
    places = Unsqueeze(position, last)
    chosen_boxes = GatherND<batch_dims=1>(ranked_boxes, places)
    chosen_scores = GatherElements<axis=1>(ranked_scores, position)
    chosen_labels = GatherElements<axis=1>(ranked_labels, position)
"""

# A head without suppression: the best candidates are the detections.
TAKE_ALL = """
    used = Identity(possible)
    chosen_boxes = Identity(ranked_boxes)
    chosen_scores = Identity(ranked_scores)
    chosen_labels = Identity(ranked_labels)
"""

FINISH = """
    used_column = Unsqueeze(used, last)
    chosen_least = Max(chosen_boxes, zero)
    chosen_inside = Min(chosen_least, limits)
    used_boxes = Where(used_column, chosen_inside, zero)
    used_scores = Where(used, chosen_scores, zero)
    used_labels = Where(used, chosen_labels, no_label)
    boxes = Pad(used_boxes, unused_boxes)
    scores = Pad(used_scores, unused)
    long_labels = Pad(used_labels, unused)
    labels = Cast<to=6>(long_labels)
"""


def with_suppression(
    dense: ModelProto, thresholds: Thresholds, height: int, width: int, prefix: str = ""
) -> ModelProto:
    """The graph with final detections in place of the dense predictions of one head.

    Args:
        dense: a graph with the outputs ``dense_boxes`` float32 ``[B, N, 4]`` (xyxy, input pixels) and
            ``dense_scores`` float32 ``[B, N, K]``, N and K fixed. It is not changed.
        thresholds: constants of the suppression; none takes place when ``nms_iou`` is 1.
        height, width: of the input, pixels.
        prefix: what the names of the head's outputs begin with, such as ``"person."``.

    Returns:
        A model whose outputs are ``boxes`` float32 ``[B, R, 4]`` (xyxy, inside the input), ``scores`` float32
        ``[B, R]`` descending and ``labels`` int32 ``[B, R]``, where R is ``max_detections``, instead of the dense
        ones, which keep their names inside. Unused rows are 0 in all three.
    """
    model = ModelProto()
    model.CopyFrom(dense)
    graph, module = model.graph, prefix + SUPPRESSION
    names = {name: prefix + name for name in (*DENSE_NAMES, *OUTPUT_NAMES)}
    outputs = {output.name: output for output in graph.output}
    boxes, scores = (outputs.pop(names[name]) for name in DENSE_NAMES)
    rows, classes = (dimension.dim_value for dimension in scores.type.tensor_type.shape.dim[1:])
    tail, constants = _tail(thresholds, rows, classes, height, width)
    _rename(tail, names, module, module)
    for output in tail.output:
        output.type.tensor_type.shape.dim[0].CopyFrom(boxes.type.tensor_type.shape.dim[0])
    del graph.output[:]
    graph.output.extend([*outputs.values(), *tail.output])
    graph.value_info.extend([boxes, scores])
    graph.node.extend(tail.node)
    graph.initializer.extend(numpy_helper.from_array(value, f"{module}/{name}") for name, value in constants.items())
    return model


def in_suppression(node: NodeProto, prefix: str = "") -> bool:
    """Whether a node of a shipped graph belongs to the tail of the head with that prefix."""
    return node.name.startswith((f"{prefix}{SUPPRESSION}/", f"{prefix}{SUPPRESSION}."))


def _tail(thresholds: Thresholds, rows: int, classes: int, height: int, width: int) -> tuple[GraphProto, Constants]:
    """The tail's nodes with plain names, and the values of its constants."""
    free = thresholds.nms_iou >= 1  # no IoU is greater
    most = thresholds.max_detections
    candidates = min(thresholds.candidates, rows * classes, *([most] if free else []))
    steps = min(most, candidates)
    text = RANK + (TAKE_ALL if free else SUPPRESS.replace("$CANDIDATES", str(candidates))) + FINISH
    tail = parser.parse_graph(
        f"tail (float[batch, {rows}, 4] dense_boxes, float[batch, {rows}, {classes}] dense_scores) => "
        f"(float[batch, {most}, 4] boxes, float[batch, {most}] scores, int32[batch, {most}] labels) {{ {text} }}"
    )
    constants: Constants = {
        "zero": np.array(0, np.float32),
        "limits": np.array([width, height, width, height], np.float32),
        "flat": np.array([0, -1], np.int64),
        "count": np.array([candidates], np.int64),
        "classes": np.array(classes, np.int64),
        "last": np.array([2], np.int64),
        "floor": np.array(thresholds.score, np.float32),
        "no_label": np.array(0, np.int64),
        "unused_boxes": np.array([0, 0, 0, 0, most - steps, 0], np.int64),
        "unused": np.array([0, 0, 0, most - steps], np.int64),
    }
    if not free:
        constants |= {
            "number_of_pairs": np.array(rows * classes, np.int64),
            "positions": np.arange(candidates, dtype=np.int64),
            "steps": np.array(steps, np.int64),
            "steps_list": np.array([steps], np.int64),
            "second": np.array([1], np.int64),
            "nms_iou": _rounded_down(thresholds.nms_iou),
        }
    return tail, constants


def _rounded_down(threshold: float) -> NDArray[np.float32]:
    """The greatest float32 not above ``threshold``.

    torchvision compares float32 IoUs with the float64 threshold; comparing with this value decides every IoU alike,
    also one that is 3/5 when the threshold is 0.6.
    """
    single = np.float32(threshold)
    return np.asarray(single if float(single) <= threshold else np.nextafter(single, np.float32(-np.inf)), np.float32)


def _rename(graph: GraphProto, names: dict[str, str], module: str, place: str) -> None:
    """Give the nodes and tensors of the tail, and of its loop, names that tell where they belong.

    Args:
        names: the tensors that have names of their own.
        module: what the names of all other tensors begin with.
        place: what the names of the nodes begin with.
    """

    def named(tensors: Iterable[str]) -> list[str]:
        return [names.get(name, f"{module}/{name}") if name else "" for name in tensors]

    numbers: Counter[str] = Counter()
    for node in graph.node:
        number = numbers[node.op_type]
        numbers[node.op_type] += 1
        node.name = f"{place}/{node.op_type}" + (f"_{number}" if number else "")
        node.input[:] = named(node.input)
        node.output[:] = named(node.output)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, names, module, f"{place}.{attribute.g.name}")
    for tensor in (*graph.input, *graph.output):
        (tensor.name,) = named([tensor.name])
    graph.name = place
