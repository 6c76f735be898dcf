"""One-to-one assignment: each object goes to one prediction, so that none needs to be suppressed."""

from itertools import accumulate, pairwise

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detheads.ops.losses import focal_cost
from detheads.ops.overlaps import overlaps
from detheads.targets.objects import TargetBatch

CLASS_WEIGHT, L1_WEIGHT, GIOU_WEIGHT = 2.0, 5.0, 2.0
"""Weights of the three parts, in the matching cost and in the loss (Zhu et al. 2021)."""


@torch.no_grad()
def match_one_to_one(logits: Tensor, boxes: Tensor, targets: TargetBatch) -> tuple[Tensor, Tensor]:
    """The matchings of least total cost between predictions and objects, of each image in each of ``L`` layers.

    The bipartite matching of Carion et al. 2020, "End-to-End Object Detection with Transformers", section 3.1, with
    the focal class cost of Zhu et al. 2021, "Deformable DETR". SciPy solves it, so that the costs of all layers are
    waited for, once.

    Args:
        logits: ``[L, B, N, K]``.
        boxes: ``[L, B, N, 4]`` xyxy as shares of the input size.
        targets: of the ``B`` images, their boxes likewise; an image may have none, or more objects than ``N`` (then
            some are left over).

    Returns:
        Predictions ``[L, P]`` int64, indices among the ``N``, and their objects ``[L, P]``, among all of the batch:
        ``min(N, M)`` of each image with ``M`` objects, image by image.
    """
    # What diverged costs much; the trainer reports the loss that follows, with its step.
    cost = matching_cost(logits, boxes, targets).nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6)  # [L, T, N]
    ends = [0, *accumulate(targets.counts)]
    pairs = [
        np.concatenate([_cheapest(layer[start:end], start) for start, end in pairwise(ends)], axis=1)
        for layer in cost.cpu().numpy()
    ]
    predictions, objects = torch.from_numpy(np.stack(pairs, axis=1)).to(boxes.device, non_blocking=True)
    return predictions, objects


def matching_cost(logits: Tensor, boxes: Tensor, targets: TargetBatch) -> Tensor:
    """``[L, T, N]``: what each object costs each prediction in its image; arguments as of :func:`match_one_to_one`."""
    classes = focal_cost(logits.permute(1, 3, 0, 2)[targets.images, targets.labels])  # [T, L, N]
    found, wanted = boxes.transpose(0, 1)[targets.images], targets.boxes[:, None, None]  # [T, L, N, 4], [T, 1, 1, 4]
    distance = (found - wanted).abs().sum(dim=3)
    _, overlap = overlaps(found, wanted)
    return (CLASS_WEIGHT * classes + L1_WEIGHT * distance - GIOU_WEIGHT * overlap).transpose(0, 1)


def _cheapest(cost: np.ndarray, start: int) -> np.ndarray:
    """Predictions and objects ``[2, min(N, M)]`` of costs ``[M, N]``; the first object has the index ``start``."""
    predictions, objects = linear_sum_assignment(cost.T)
    return np.stack((predictions, objects + start))
