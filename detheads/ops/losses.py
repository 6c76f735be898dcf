"""The losses heads share: the reductions we agree on; the arithmetic is torch's, and torchvision's where it can be."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import ops

from detheads.ops.overlaps import overlaps

EPSILON = 1e-7
"""Added to areas that are divided by, in the boxes' own unit; torchvision's."""


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss summed over all elements (Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 5).

    Divide the sum by the number of positive points of the batch, at least 1.

    Args:
        logits: any shape, usually ``[B, N, K]``.
        targets: same shape, 0 or 1.
        alpha: weight of the positives, ``1 - alpha`` that of the negatives.
        gamma: exponent of the modulating factor.

    Returns:
        A scalar.
    """
    return cast(Tensor, ops.sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma, reduction="sum"))


def focal_cost(logits: Tensor) -> Tensor:
    """What turning background into an object costs: the focal loss of each logit as a positive less that as a
    negative, at the usual ``alpha`` 0.25 and ``gamma`` 2. Assignments by cost compare predictions with it.

    Args:
        logits: any shape.

    Returns:
        The same shape; falls with the logit.
    """
    positive = 0.25 * (-logits).sigmoid().square() * F.softplus(-logits)
    return positive - 0.75 * logits.sigmoid().square() * F.softplus(logits)


def heatmap_focal_loss(logits: Tensor, targets: Tensor, alpha: float = 2.0, beta: float = 4.0) -> Tensor:
    """Penalty-reduced focal loss summed over all elements (Law & Deng 2018, "CornerNet", eq. 1).

    Divide the sum by the number of objects of the batch, at least 1.

    Args:
        logits: any shape.
        targets: same shape, in ``[0, 1]``: 1 at the peaks, see :func:`detheads.targets.heatmap.heatmap_targets`.
        alpha: exponent of the modulating factor.
        beta: exponent that spares cells close to a peak.

    Returns:
        A scalar.
    """
    found = (1 - logits.sigmoid()).pow(alpha) * F.logsigmoid(logits)
    rejected = (1 - targets).pow(beta) * logits.sigmoid().pow(alpha) * F.logsigmoid(-logits)
    return -torch.where(targets == 1, found, rejected).sum()


def giou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """``1 - GIoU`` of box pairs (Rezatofighi et al. 2019), in ``[0, 2]``.

    Finite, gradient included, for boxes without area and for ``N = 0``. To the bit ``generalized_box_iou_loss`` of
    torchvision, which picks out the pairs that overlap, and has a device tell how many there are three times a step.

    Args:
        predicted: ``[N, 4]`` xyxy with ``x2 >= x1`` and ``y2 >= y1``, in the same frame and unit as ``target``.
        target: ``[N, 4]`` xyxy.

    Returns:
        ``[N]``, one loss a pair.
    """
    return 1 - overlaps(predicted, target, EPSILON)[1]


def centerness_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of centerness logits, summed (Tian et al. 2019, "FCOS", section 3.2).

    Args:
        logits: ``[N]`` of the positive points.
        targets: ``[N]`` in ``[0, 1]``, see :func:`detheads.targets.assignment.centerness_targets`.

    Returns:
        A scalar.
    """
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
