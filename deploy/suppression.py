"""Non-maximum suppression without a graph: the graph's own rule in NumPy, for dense boxes and for boxes of tiles.

Order and arithmetic are those of the graph's last part and of torchvision: of equal scores the first candidate comes
first, and of two boxes of a class the lower one goes where ``intersection / (area + area - intersection) > nms_iou``.
"""

import numpy as np
from numpy.typing import NDArray

from detheads.foundation.geometry import has_area
from detheads.foundation.manifest import Thresholds

Floats = NDArray[np.floating]


def suppress(
    boxes: Floats, scores: Floats, thresholds: Thresholds, *, height: int, width: int
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """The detections among the dense boxes of one image.

    Args:
        boxes: ``[N, 4]`` xyxy, input pixels, not clipped.
        scores: ``[N, K]`` in 0..1.
        thresholds: of the bundle. No suppression takes place where ``nms_iou`` is 1.
        height, width: of the input, pixels. Boxes without area inside it take no part.

    Returns:
        ``boxes`` ``[D, 4]`` inside the input, ``scores`` ``[D]`` descending and ``labels`` ``[D]``.
    """
    inside = np.clip(boxes, 0, np.array([width, height, width, height], boxes.dtype))
    pairs = np.where(has_area(inside)[:, None], scores, 0).ravel()
    (possible,) = np.nonzero(pairs > np.float32(thresholds.score))
    ranked = possible[np.argsort(-pairs[possible], kind="stable")][: thresholds.candidates]
    rows, labels = np.divmod(ranked, scores.shape[1])
    kept = survivors(boxes[rows], labels, thresholds.nms_iou)[: thresholds.max_detections]
    return inside[rows[kept]], pairs[ranked[kept]], labels[kept]


def survivors(
    boxes: Floats, labels: NDArray[np.integer], nms_iou: float, yields: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Positions of the boxes that no better one of their class suppresses, best first.

    Args:
        boxes: ``[n, 4]`` xyxy, best first.
        labels: ``[n]``.
        nms_iou: none is suppressed where it is 1.
        yields: ``[n]`` boxes that are parts of objects: they also go where more than ``nms_iou`` of their own area lies
            in a better one of their class.
    """
    if nms_iou >= 1:
        return np.arange(len(boxes))
    areas = _areas(boxes)
    left = np.arange(len(boxes))
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        others = boxes[left]
        sides = np.minimum(boxes[best, 2:], others[:, 2:]) - np.maximum(boxes[best, :2], others[:, :2])
        shared = np.maximum(sides, 0).prod(axis=1)
        overlap = shared / (areas[best] + areas[left] - shared)
        if yields is not None:
            overlap = np.where(yields[left], shared / areas[left], overlap)
        # In float64, so that an IoU of 3/5 in float32 is held against 0.6 as torchvision does it.
        left = left[~((labels[left] == labels[best]) & (overlap.astype(np.float64) > nms_iou))]
    return np.array(kept, np.int64)


def _areas(boxes: Floats) -> Floats:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
