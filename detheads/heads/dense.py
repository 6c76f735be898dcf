"""What point-based heads share: the points, LTRB decoding, and the FCOS loss with either assignment."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from detheads.heads.contract import Head, HeadOutput, Targets
from detheads.losses import centerness_loss, giou_loss, sigmoid_focal_loss
from detheads.targets.assignment import Assignment, centerness_targets, ltrb_targets
from detheads.targets.atss import assign_atss
from detheads.targets.fcos import assign_fcos

Assigner = Literal["atss", "fcos"]

MAX_LOG_DISTANCE = 8.0
"""Predicted distances are at most e^8 strides: finite in every precision, beyond any image."""

PRIOR_BIAS = -math.log((1 - 0.01) / 0.01)
"""Logit of an initial score of 0.01, which keeps the focal loss stable at the start (Lin et al. 2017, section 3.3)."""


class PointHead(Head):
    """A head that predicts, at each point of several grids, class logits, LTRB distances and a centerness.

    Sub-classes call :meth:`decode` with one map of each kind a level.
    """

    points: Tensor
    strides: Tensor

    def __init__(self, height: int, width: int, strides: Sequence[float], assigner: Assigner) -> None:
        super().__init__()
        self.assigner = assigner
        self.level_scales = nn.Parameter(torch.ones(len(strides)))
        self._level_strides = tuple(strides)
        points = [grid_points(height, width, stride) for stride in strides]
        self.points_per_level = per_level = [len(level) for level in points]
        self.register_buffer("points", torch.cat(points), persistent=False)  # [N, 2]
        self.register_buffer(
            "strides", torch.repeat_interleave(torch.tensor(strides), torch.tensor(per_level)), persistent=False
        )  # [N]

    def decode(self, logits: Sequence[Tensor], distances: Sequence[Tensor], centerness: Sequence[Tensor]) -> HeadOutput:
        """Level maps to dense predictions.

        Args:
            logits: ``[B, K, H, W]`` a level.
            distances: ``[B, 4, H, W]`` a level: logarithms of LTRB distances in strides, before the level's scale.
            centerness: ``[B, 1, H, W]`` a level.
        """
        scaled = [level * scale for level, scale in zip(distances, self.level_scales, strict=True)]
        ltrb = _flatten(scaled).clamp(max=MAX_LOG_DISTANCE).exp() * self.strides[:, None]  # [B, N, 4]
        boxes = torch.cat((self.points - ltrb[..., :2], self.points + ltrb[..., 2:]), dim=2)
        return HeadOutput(boxes, _flatten(logits), _flatten(centerness).squeeze(2), {})

    def loss(self, output: HeadOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Focal, centerness-weighted GIoU and centerness loss (Tian et al. 2019, eq. 2), a positive point each."""
        if output.quality is None:
            raise ValueError("a point head predicts a centerness")
        class_targets = torch.zeros_like(output.logits)
        rows, columns, boxes = [], [], []
        for image, target in enumerate(targets):
            assignment = self.assign(target.boxes)
            positive, objects = assignment.positive, assignment.objects
            class_targets[image, positive, target.labels[objects]] = 1.0
            rows.append(torch.full_like(positive, image))
            columns.append(positive)
            boxes.append(target.boxes[objects])
        row, column, target_boxes = torch.cat(rows), torch.cat(columns), torch.cat(boxes)  # [P], [P], [P, 4]
        positives = max(1, len(row))
        centers = centerness_targets(ltrb_targets(self.points[column], target_boxes))  # [P]
        overlap = giou_loss(output.boxes[row, column], target_boxes)  # [P]
        return {
            "classification": sigmoid_focal_loss(output.logits, class_targets) / positives,
            "box": (overlap * centers).sum() / centers.sum().clamp(min=1e-6),
            "centerness": centerness_loss(output.quality[row, column], centers) / positives,
        }

    def assign(self, boxes: Tensor) -> Assignment:
        """Match the points of one image to its objects ``[M, 4]`` (xyxy, input pixels)."""
        if self.assigner == "atss":
            return Assignment(assign_atss(self.points, self.points_per_level, self.strides, boxes))
        ranges = fcos_ranges(self._level_strides)
        return Assignment(assign_fcos(self.points, self.points_per_level, self.strides, boxes, level_ranges=ranges))


def grid_points(height: int, width: int, stride: float) -> Tensor:
    """Centres of the cells of one level, row by row: ``[rows * columns, 2]`` (x, y), input pixels."""
    y, x = torch.meshgrid(
        torch.arange(_cells(height, stride)) + 0.5, torch.arange(_cells(width, stride)) + 0.5, indexing="ij"
    )
    return torch.stack((x, y), dim=2).view(-1, 2) * stride


def fcos_ranges(strides: Sequence[float]) -> list[tuple[float, float]]:
    """Regression ranges of FCOS for any strides: 8 strides is where one level ends and the next begins."""
    edges = [0.0, *(8.0 * stride for stride in strides[:-1]), float("inf")]
    return list(pairwise(edges))


def init_prediction(layer: nn.Conv2d, bias: float = 0.0) -> nn.Conv2d:
    """Small weights and a chosen bias, as FCOS initialises its prediction layers."""
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.constant_(layer.bias, bias)
    return layer


def _cells(pixels: int, stride: float) -> int:
    return int(-(-pixels // stride))


def _flatten(levels: Sequence[Tensor]) -> Tensor:
    """``[B, C, H, W]`` a level -> float32 ``[B, N, C]``, level after level."""
    return torch.cat([level.float().flatten(2).transpose(1, 2) for level in levels], dim=1)
