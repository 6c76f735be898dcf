"""Post-processing of one image on the evaluation side: torchvision's NMS, and soft-NMS.

Independent of :mod:`detheads.export.tail`, which the deployed graph carries.
"""

import torch
from torch import Tensor
from torchvision import ops

from detheads.foundation.manifest import Thresholds

Size = tuple[int, int]
"""Height and width of the model input, pixels."""


def hard_nms(
    boxes: Tensor, scores: Tensor, thresholds: Thresholds, *, size: Size | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Greedy per-class NMS by ``torchvision.ops.nms``, class after class.

    Not by ``torchvision.ops.batched_nms``: that one moves every class to its own place by an offset, which at 80
    classes costs the boxes their last two decimals and lets boxes with negative coordinates meet another class.

    Args:
        boxes: ``[N, 4]`` xyxy.
        scores: ``[N, K]`` in ``[0, 1]``.
        size: where given, boxes without area inside an input of this size take no part.

    Returns:
        ``boxes`` ``[D, 4]`` in the frame of the input, ``scores`` ``[D]`` descending, ``labels`` ``[D]`` int64.
    """
    boxes, scores, labels = _candidates(boxes, scores, thresholds, size)
    kept = [torch.zeros(0, dtype=torch.int64, device=boxes.device)]
    for label in labels.unique():
        members = torch.nonzero(labels == label).squeeze(1)
        kept.append(members[ops.nms(boxes[members], scores[members], thresholds.nms_iou)])
    ranks = torch.cat(kept).sort().values[: thresholds.max_detections]  # candidates are ranked by score
    return boxes[ranks], scores[ranks], labels[ranks]


def soft_nms(
    boxes: Tensor, scores: Tensor, thresholds: Thresholds, *, size: Size | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Per-class soft-NMS with linear decay (Bodla et al. 2017, "Soft-NMS", section 3).

    The best candidate is a detection; the candidates of its class whose IoU with it exceeds the threshold have their
    score multiplied by ``1 - IoU``; and so on while a score is above the score threshold.

    Args:
        boxes: ``[N, 4]`` xyxy.
        scores: ``[N, K]`` in ``[0, 1]``.
        size: where given, boxes without area inside an input of this size take no part.

    Returns:
        ``boxes`` ``[D, 4]`` in the frame of the input, decayed ``scores`` ``[D]`` descending, ``labels`` ``[D]`` int64.
    """
    boxes, scores, labels = _candidates(boxes, scores, thresholds, size)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)  # [C]
    left = scores.clone()
    ranks: list[int] = []
    final: list[Tensor] = []
    # All classes in one walk: scores only fall, so the order of picks is the descending order of final scores.
    while len(ranks) < thresholds.max_detections and len(left):
        best = int(left.argmax())
        if not left[best] > thresholds.score:
            break
        ranks.append(best)
        final.append(left[best].clone())
        sides = (torch.minimum(boxes[:, 2:], boxes[best, 2:]) - torch.maximum(boxes[:, :2], boxes[best, :2])).clamp(0)
        intersection = sides.prod(dim=1)  # [C]
        iou = intersection / (areas[best] + areas - intersection)
        decays = (labels == labels[best]) & (iou > thresholds.nms_iou)
        left = torch.where(decays, left * (1 - iou), left)
        left[best] = 0.0
    picked = torch.tensor(ranks, dtype=torch.int64, device=boxes.device)
    return boxes[picked], torch.stack(final) if final else scores[:0], labels[picked]


def _candidates(
    boxes: Tensor, scores: Tensor, thresholds: Thresholds, size: Size | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The best (box, class) pairs above the threshold: boxes ``[C, 4]``, scores ``[C]`` descending, labels ``[C]``."""
    if size is not None:
        inside = ops.clip_boxes_to_image(boxes, size)
        seen = (inside[:, 2:] > inside[:, :2]).all(dim=1)
        boxes, scores = boxes[seen], scores[seen]
    flat = scores.flatten()
    above = torch.nonzero(flat > thresholds.score).squeeze(1)
    order = flat[above].sort(descending=True, stable=True).indices[: thresholds.candidates]
    chosen = above[order]
    return boxes[chosen // scores.shape[1]], flat[chosen], chosen % scores.shape[1]
