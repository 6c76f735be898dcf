"""From dense predictions to detections, in plain dense operations that every inference engine has.

This is the tail of the deployed graph. Evaluation in PyTorch has its own (:mod:`detheads.ops.nms`, torchvision's
kernels), so that the comparison of the two proves something.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detheads.foundation.manifest import Thresholds
from detheads.ops.decisions import decide


def select_detections(boxes: Tensor, scores: Tensor, thresholds: Thresholds) -> tuple[Tensor, Tensor, Tensor]:
    """Greedy per-class non-maximum suppression, exact, without a data-dependent shape or loop.

    The ``candidates`` best (box, class) pairs above the score threshold are walked by rank, as greedy NMS does: the
    best one left is a detection; it removes itself and all of its class whose IoU with it exceeds the threshold. As
    one step yields one detection, ``max_detections`` unrolled steps give the first ``max_detections`` results of
    greedy NMS whatever the boxes are. (Iterating the suppression of all pairs to a fixed point needs as many rounds
    as the longest chain of suppressions, which is not bounded, and a matrix of candidates by candidates.)

    Order and arithmetic are torchvision's: of equal scores the lower flat index ``n * K + k`` comes first;
    ``intersection / (area + area - intersection) > nms_iou``, widths without the ``+ 1`` of old.

    Args:
        boxes: ``[B, N, 4]`` xyxy.
        scores: ``[B, N, K]`` in ``[0, 1]``.

    Returns:
        ``boxes`` ``[B, max_detections, 4]`` in the frame of the input, ``scores`` ``[B, max_detections]`` descending,
        ``labels`` ``[B, max_detections]`` int32. Unused rows are 0 in all three.
    """
    classes = scores.shape[2]
    count = min(thresholds.candidates, scores.shape[1] * classes)
    ranked_scores, ranked = highest(scores.flatten(1), count)  # [B, C] each
    labels = ranked % classes  # [B, C]
    box_of = (ranked // classes).unsqueeze(2).expand(-1, -1, 4)  # [B, C, 4]
    ranked_boxes = boxes.gather(1, box_of)  # [B, C, 4]

    # The class is a third dimension, one unit deep: boxes of different classes do not meet, and for boxes of one class
    # the product of the three sides is the intersection to the last bit.
    depth = labels.unsqueeze(2).to(boxes.dtype)  # [B, C, 1]
    low = torch.cat((ranked_boxes[..., :2], depth), dim=2).transpose(1, 2)  # [B, 3, C]
    high = torch.cat((ranked_boxes[..., 2:], depth + 1), dim=2).transpose(1, 2)
    area = (high - low).prod(dim=1, keepdim=True)  # [B, 1, C]
    rows = torch.cat((low, high, area), dim=1)  # [B, 7, C]

    # Urgency: the number of candidates from this one to the last, 0 for a candidate that is out. It is unique,
    # so the best candidate left needs no tie-breaking by the engine.
    urgency = torch.arange(count, 0, -1, dtype=boxes.dtype, device=boxes.device)
    left = torch.where(ranked_scores > thresholds.score, urgency, 0.0).unsqueeze(1)  # [B, 1, C]
    limit = _rounded_down(thresholds.nms_iou)
    chosen = []
    for _ in range(min(thresholds.max_detections, count)):
        best = left.amax(dim=2, keepdim=True)  # [B, 1, 1]
        chosen.append(best)
        taken = left == best  # one candidate, or all of them once none is left
        row = torch.where(taken, rows, 0.0).sum(dim=2, keepdim=True)  # [B, 7, 1]
        best_low, best_high, best_area = row.split((3, 3, 1), dim=1)
        intersection = (torch.minimum(high, best_high) - torch.maximum(low, best_low)).relu().prod(dim=1, keepdim=True)
        overlapping = intersection / (best_area + area - intersection) > limit  # [B, 1, C]
        left = torch.where(overlapping | taken, 0.0, left)

    best = torch.cat(chosen, dim=2).squeeze(1)  # [B, R], R at most max_detections and C
    position = (count - best).clamp(max=count - 1).to(torch.int64)
    used = best > 0
    kept_boxes = torch.where(used.unsqueeze(2), ranked_boxes.gather(1, position.unsqueeze(2).expand(-1, -1, 4)), 0.0)
    kept_scores = torch.where(used, ranked_scores.gather(1, position), 0.0)
    kept_labels = torch.where(used, labels.gather(1, position), 0).to(torch.int32)
    unused = thresholds.max_detections - len(chosen)
    return F.pad(kept_boxes, (0, 0, 0, unused)), F.pad(kept_scores, (0, unused)), F.pad(kept_labels, (0, unused))


def highest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` highest of ``scores`` ``[B, S]`` and their indices, descending, the lower index first of equals.

    ONNX defines TopK with that order, torch.topk with none. Engines bound the size of a sort by that of a TopK, so
    a graph that is being exported gets the TopK, and PyTorch itself, eager or compiled, a stable sort.
    """
    indices = decide(scores, lambda scores: _order(scores, count), dim=1)
    return scores.gather(1, indices), indices


def _order(scores: Tensor, count: int) -> Tensor:
    if torch.compiler.is_exporting():
        return scores.topk(count, dim=1).indices
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :count]


def _rounded_down(threshold: float) -> float:
    """The greatest float32 not above ``threshold``.

    torchvision compares float32 IoUs with the float64 threshold; comparing with this value decides every IoU alike,
    also one that is 3/5 when the threshold is 0.6.
    """
    single = np.float32(threshold)
    return float(single if float(single) <= threshold else np.nextafter(single, np.float32(-np.inf)))
