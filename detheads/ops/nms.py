"""Post-processing on the evaluation side: which (box, class) pairs take part, torchvision's NMS, and soft-NMS.

Independent of :mod:`detheads.export.tail`, which the deployed graph carries.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import ops

from detheads.foundation.manifest import Thresholds

Size = tuple[int, int]
"""Height and width of the model input, pixels."""


@dataclass(frozen=True)
class Candidates:
    """The best (box, class) pairs above the score threshold, image after image, the best of each first.

    Attributes:
        boxes: ``[C, 4]`` xyxy.
        scores: ``[C]``.
        labels: ``[C]`` int64.
        counts: pairs of each image, ``[B]``.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    counts: Tensor

    @classmethod
    def of(cls, boxes: Tensor, scores: Tensor, thresholds: Thresholds, *, size: Size | None = None) -> "Candidates":
        """The pairs of a batch, on the device where it lies.

        Of equal scores those come first whose box, then whose class, has the lower index.

        Args:
            boxes: ``[B, N, 4]`` xyxy.
            scores: ``[B, N, K]`` in ``[0, 1]``.
            size: where given, boxes without area inside an input of this size take no part.
        """
        takes_part = scores > thresholds.score
        if size is not None:
            inside = ops.clip_boxes_to_image(boxes, size)
            takes_part &= (inside[..., 2:] > inside[..., :2]).all(dim=2, keepdim=True)
        flat = torch.where(takes_part, scores, -1.0).flatten(1)  # [B, N * K]
        # Early in training nearly all pairs are above the threshold, and sorting a million takes 30 times as long.
        least = flat.topk(min(thresholds.candidates, flat.shape[1]), dim=1).values[:, -1:]  # [B, 1]
        images, places = torch.nonzero((flat >= least) & (flat >= 0), as_tuple=True)
        values = flat[images, places]
        order = values.sort(descending=True, stable=True).indices
        order = order[images[order].sort(stable=True).indices]
        images, places, values = images[order], places[order], values[order]
        counts = images.bincount(minlength=len(flat))
        ranks = torch.arange(len(images), device=images.device) - (counts.cumsum(0) - counts)[images]
        kept = ranks < thresholds.candidates  # there are more where several equal the least
        images, places = images[kept], places[kept]
        points, labels = places // scores.shape[2], places % scores.shape[2]
        return cls(boxes[images, points], values[kept], labels, counts.clamp(max=thresholds.candidates))

    def cpu(self) -> "Candidates":
        return Candidates(self.boxes.cpu(), self.scores.cpu(), self.labels.cpu(), self.counts.cpu())

    def __iter__(self) -> Iterator["Candidates"]:
        """Those of each image."""
        counts = self.counts.tolist()
        parts = (part.split(counts) for part in (self.boxes, self.scores, self.labels))
        return (Candidates(*part) for part in zip(*parts, self.counts.split(1), strict=True))


def hard_nms(
    boxes: Tensor, scores: Tensor, thresholds: Thresholds, *, size: Size | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`suppress` of the candidates of one image.

    Args:
        boxes: ``[N, 4]`` xyxy.
        scores: ``[N, K]`` in ``[0, 1]``.
        size: where given, boxes without area inside an input of this size take no part.
    """
    return suppress(Candidates.of(boxes[None], scores[None], thresholds, size=size), thresholds)


def soft_nms(
    boxes: Tensor, scores: Tensor, thresholds: Thresholds, *, size: Size | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`suppress_softly` of the candidates of one image; arguments as :func:`hard_nms`."""
    return suppress_softly(Candidates.of(boxes[None], scores[None], thresholds, size=size), thresholds)


def suppress(candidates: Candidates, thresholds: Thresholds) -> tuple[Tensor, Tensor, Tensor]:
    """Greedy per-class NMS of one image by ``torchvision.ops.nms``, class after class.

    Not by ``torchvision.ops.batched_nms``: that one moves every class to its own place by an offset, which at 80
    classes costs the boxes their last two decimals and lets boxes with negative coordinates meet another class.

    Returns:
        ``boxes`` ``[D, 4]`` in the frame of the input, ``scores`` ``[D]`` descending, ``labels`` ``[D]`` int64.
    """
    boxes, scores, labels = candidates.boxes, candidates.scores, candidates.labels
    kept = [torch.zeros(0, dtype=torch.int64, device=boxes.device)]
    for label in labels.unique():
        members = torch.nonzero(labels == label).squeeze(1)
        kept.append(members[ops.nms(boxes[members], scores[members], thresholds.nms_iou)])
    ranks = torch.cat(kept).sort().values[: thresholds.max_detections]  # candidates are ranked by score
    return boxes[ranks], scores[ranks], labels[ranks]


def suppress_softly(candidates: Candidates, thresholds: Thresholds) -> tuple[Tensor, Tensor, Tensor]:
    """Per-class soft-NMS of one image with linear decay (Bodla et al. 2017, "Soft-NMS", section 3).

    The best candidate is a detection; the candidates of its class whose IoU with it exceeds the threshold have their
    score multiplied by ``1 - IoU``; and so on while a score is above the score threshold.

    Returns:
        ``boxes`` ``[D, 4]`` in the frame of the input, decayed ``scores`` ``[D]`` descending, ``labels`` ``[D]`` int64.
    """
    boxes, scores, labels = candidates.boxes, candidates.scores, candidates.labels
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
