"""Which blocks INT8 harms: each alone in INT8, the rest as it was, held against the FP32 graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from detheads.deploy.backends.onnx_runtime import open_graph
from detheads.deploy.matching import overlaps
from detheads.export.names import DENSE_NAMES, INPUT_NAME
from detheads.export.precision.blocks import Layer
from detheads.export.precision.qdq import Quantiser
from detheads.foundation.progress import Progress, silent

CANDIDATES = 100
"""Best (box, class) pairs of an image that are looked for: as many as COCO's AP counts."""

AMONG = 300
"""Pairs of the other graph that they are looked for among: more, for ranks change."""


@dataclass(frozen=True)
class Best:
    """The (box, class) pairs of highest score of one image, best first: boxes ``[n, 4]``, scores and labels ``[n]``."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float32]
    labels: NDArray[np.intp]


def best_pairs(boxes: NDArray[np.float32], scores: NDArray[np.float32], count: int = AMONG) -> Best:
    """Of one image's boxes ``[N, 4]`` and scores ``[N, K]`` before suppression."""
    flat = scores.ravel()
    order = np.argsort(-flat, kind="stable")[:count]
    rows, labels = np.unravel_index(order, scores.shape)
    return Best(boxes[rows].astype(np.float64), flat[order], labels)


def departure(first: Best, second: Best) -> float:
    """How far two graphs' detections of one image are apart: 0 for equal ones, 1 for nothing in common or no numbers.

    Each of the ``CANDIDATES`` best pairs of a side has in the other side's its nearest of the same class: IoU times the
    ratio of scores. What is lacking to 1 is averaged with the scores as weights, over both directions. Rows are not
    compared, for heads that select give their candidates no fixed place.
    """
    if not (np.isfinite(second.boxes).all() and np.isfinite(second.scores).all()):
        return 1.0
    return (_lost(first, second) + _lost(second, first)) / 2


def _lost(wanted: Best, found: Best) -> float:
    boxes, scores, labels = wanted.boxes[:CANDIDATES], wanted.scores[:CANDIDATES], wanted.labels[:CANDIDATES]
    if not scores.sum():
        return 0.0
    low = np.minimum(scores[:, None], found.scores)
    high = np.maximum(np.maximum(scores[:, None], found.scores), np.finfo(np.float32).tiny)
    alike = np.where(labels[:, None] == found.labels, overlaps(boxes, found.boxes) * low / high, 0.0)
    return float(np.average(1 - alike.max(axis=1, initial=0.0), weights=scores))


def rank_blocks(
    dense: onnx.ModelProto,
    quantiser: Quantiser,
    blocks: Mapping[str, Sequence[Layer]],
    images: NDArray[np.uint8],
    on_progress: Progress = silent,
) -> dict[str, float]:
    """The mean departure over ``images`` ``[n, 3, H, W]`` that each block causes alone, most harmful first."""
    reference = _detections(dense, images)
    harm = {}
    for number, (block, layers) in enumerate(blocks.items()):
        found = _detections(quantiser.graph(layers), images)
        harm[block] = float(np.mean([departure(*pair) for pair in zip(reference, found, strict=True)]))
        on_progress("INT8, block by block", number + 1, len(blocks))
    return dict(sorted(harm.items(), key=lambda item: -item[1]))


def _detections(model: onnx.ModelProto, images: NDArray[np.uint8]) -> list[Best]:
    """Of every head and image."""
    session = open_graph(bytes(model.SerializeToString()))
    names = [output.name for output in model.graph.output]
    pairs = [
        (name, name.removesuffix(DENSE_NAMES[0]) + DENSE_NAMES[1]) for name in names if name.endswith(DENSE_NAMES[0])
    ]
    found = []
    for image in images:
        for pair in pairs:
            boxes, scores = session.run(list(pair), {INPUT_NAME: image[None]})
            found.append(best_pairs(boxes[0], scores[0]))
    return found
