"""Post-processing of one image on the evaluation side: torchvision's NMS, and soft-NMS.

Independent of :func:`detheads.ops.suppression.select_detections`, which the deployed graph carries.
"""

import torch
from torch import Tensor
from torchvision import ops


def hard_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.5,
    candidates: int = 1000,
    max_detections: int = 100,
) -> tuple[Tensor, Tensor, Tensor]:
    """Greedy per-class NMS by ``torchvision.ops.nms``, class after class.

    Not by ``torchvision.ops.batched_nms``: that one moves every class to its own place by an offset, which at 80
    classes costs the boxes their last two decimals and lets boxes with negative coordinates meet another class.

    Args:
        boxes: ``[N, 4]`` xyxy.
        scores: ``[N, K]`` in ``[0, 1]``.
        score_threshold: a (box, class) pair takes part when its score is greater.
        iou_threshold: a box is removed when its IoU with a better one of its class is greater.
        candidates: number of pairs that take part at most, the best ones.
        max_detections: number of detections at most.

    Returns:
        ``boxes`` ``[D, 4]`` in the frame of the input, ``scores`` ``[D]`` descending, ``labels`` ``[D]`` int64.
    """
    boxes, scores, labels = _candidates(boxes, scores, score_threshold, candidates)
    kept = [torch.zeros(0, dtype=torch.int64, device=boxes.device)]
    for label in labels.unique():
        members = torch.nonzero(labels == label).squeeze(1)
        kept.append(members[ops.nms(boxes[members], scores[members], iou_threshold)])
    ranks = torch.cat(kept).sort().values[:max_detections]  # candidates are ranked by score
    return boxes[ranks], scores[ranks], labels[ranks]


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.5,
    candidates: int = 1000,
    max_detections: int = 100,
) -> tuple[Tensor, Tensor, Tensor]:
    """Per-class soft-NMS with linear decay (Bodla et al. 2017, "Soft-NMS", section 3).

    The best candidate is a detection; the candidates of its class whose IoU with it exceeds the threshold have their
    score multiplied by ``1 - IoU``; and so on while a score is above the score threshold.

    Args:
        boxes: ``[N, 4]`` xyxy.
        scores: ``[N, K]`` in ``[0, 1]``.
        score_threshold: a (box, class) pair takes part, and stays, while its score is greater; at least 0.
        iou_threshold: scores decay above this IoU.
        candidates: number of pairs that take part at most, the best ones.
        max_detections: number of detections at most.

    Returns:
        ``boxes`` ``[D, 4]`` in the frame of the input, decayed ``scores`` ``[D]`` descending, ``labels`` ``[D]`` int64.
    """
    boxes, scores, labels = _candidates(boxes, scores, score_threshold, candidates)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)  # [C]
    left = scores.clone()
    ranks: list[int] = []
    final: list[Tensor] = []
    # All classes in one walk: scores only fall, so the order of picks is the descending order of final scores.
    while len(ranks) < max_detections and len(left):
        best = int(left.argmax())
        if not left[best] > score_threshold:
            break
        ranks.append(best)
        final.append(left[best].clone())
        sides = (torch.minimum(boxes[:, 2:], boxes[best, 2:]) - torch.maximum(boxes[:, :2], boxes[best, :2])).clamp(0)
        intersection = sides.prod(dim=1)  # [C]
        iou = intersection / (areas[best] + areas - intersection)
        decays = (labels == labels[best]) & (iou > iou_threshold)
        left = torch.where(decays, left * (1 - iou), left)
        left[best] = 0.0
    picked = torch.tensor(ranks, dtype=torch.int64, device=boxes.device)
    return boxes[picked], torch.stack(final) if final else scores[:0], labels[picked]


def _candidates(boxes: Tensor, scores: Tensor, threshold: float, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best (box, class) pairs above the threshold: boxes ``[C, 4]``, scores ``[C]`` descending, labels ``[C]``."""
    flat = scores.flatten()
    above = torch.nonzero(flat > threshold).squeeze(1)
    order = flat[above].sort(descending=True, stable=True).indices[:count]
    chosen = above[order]
    return boxes[chosen // scores.shape[1]], flat[chosen], chosen % scores.shape[1]
