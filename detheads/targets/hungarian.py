"""One-to-one assignment: each object goes to one prediction, so that none needs to be suppressed."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import generalized_box_iou

from detheads.ops.losses import focal_cost
from detheads.targets.assignment import Assignment

CLASS_WEIGHT, L1_WEIGHT, GIOU_WEIGHT = 2.0, 5.0, 2.0
"""Weights of the three parts, in the matching cost and in the loss (Zhu et al. 2021)."""


@torch.no_grad()
def match_one_to_one(logits: Tensor, boxes: Tensor, target_boxes: Tensor, target_labels: Tensor) -> Assignment:
    """The matching of least total cost between the predictions and the objects of one image.

    The bipartite matching of Carion et al. 2020, "End-to-End Object Detection with Transformers", section 3.1, with
    the focal class cost of Zhu et al. 2021, "Deformable DETR".

    Args:
        logits: ``[N, K]``.
        boxes: ``[N, 4]`` xyxy as shares of the input size.
        target_boxes: ``[M, 4]`` likewise; ``M`` may be 0, or more than ``N`` (then objects are left over).
        target_labels: ``[M]`` int64.

    Returns:
        The object of each prediction; ``min(N, M)`` of them have one.
    """
    # What diverged costs much; the trainer reports the loss that follows, with its step.
    cost = matching_cost(logits, boxes, target_boxes, target_labels).nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6)
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    matched = torch.full((len(boxes),), -1, dtype=torch.int64)
    matched[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return Assignment(matched.to(boxes.device))


def matching_cost(logits: Tensor, boxes: Tensor, target_boxes: Tensor, target_labels: Tensor) -> Tensor:
    """``[N, M]``: what each prediction costs each object; arguments as of :func:`match_one_to_one`."""
    classes = focal_cost(logits[:, target_labels])  # [N, M]
    distance = torch.cdist(boxes, target_boxes, p=1)
    overlap: Tensor = generalized_box_iou(boxes, target_boxes)
    return CLASS_WEIGHT * classes + L1_WEIGHT * distance - GIOU_WEIGHT * overlap
