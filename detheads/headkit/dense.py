"""What point-based heads share: LTRB decoding, the FCOS loss with either assignment, and the two towers."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import ChannelDropout, conv_norm_relu
from detheads.headkit.contract import Head, HeadOutput, Matcher
from detheads.headkit.grids import OnGrids
from detheads.headkit.matching import Geometry, Matches, Rule
from detheads.headkit.options import Share
from detheads.headkit.prior import PRIOR_BIAS
from detheads.ops.across import mean_across_processes, mean_number
from detheads.ops.losses import centerness_loss, giou_loss, sigmoid_focal_loss
from detheads.ops.points import flatten_levels, ltrb_to_boxes
from detheads.targets.assignment import Assignment, centerness_targets, ltrb_targets
from detheads.targets.atss import assign_atss_batch
from detheads.targets.fcos import assign_fcos_batch
from detheads.targets.objects import TargetBatch, Targets

Assigner = Literal["atss", "fcos"]

MAX_LOG_DISTANCE = 8.0
"""Predicted distances are at most e^8 strides: finite in every precision, beyond any image."""


class PointHead(OnGrids, Head):
    """A head that predicts, at each point of several grids, class logits, LTRB distances and a centerness.

    Sub-classes call :meth:`decode` with one map of each kind a level.
    """

    def __init__(self, height: int, width: int, strides: Sequence[float], assigner: Assigner) -> None:
        super().__init__()
        self.assigner = assigner
        self.level_scales = nn.Parameter(torch.ones(len(strides)))
        self.lay_grids(height, width, strides)

    def decode(self, logits: Sequence[Tensor], distances: Sequence[Tensor], centerness: Sequence[Tensor]) -> HeadOutput:
        """Level maps to dense predictions.

        Args:
            logits: ``[B, K, H, W]`` a level.
            distances: ``[B, 4, H, W]`` a level: logarithms of LTRB distances in strides, before the level's scale.
            centerness: ``[B, 1, H, W]`` a level.
        """
        scaled = [level * scale for level, scale in zip(distances, self.level_scales, strict=True)]
        ltrb = flatten_levels(scaled).clamp(max=MAX_LOG_DISTANCE).exp() * self.strides[:, None]  # [B, N, 4]
        return HeadOutput(
            ltrb_to_boxes(self.points, ltrb), flatten_levels(logits), flatten_levels(centerness).squeeze(2), {}
        )

    def loss(self, output: HeadOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """What :meth:`losses` says of the points that :meth:`match` finds positive."""
        return self.losses(output, self.match(output, targets))

    def losses(self, output: HeadOutput, matches: Matches) -> dict[str, Tensor]:
        """Focal, centerness-weighted GIoU and centerness loss (Tian et al. 2019, eq. 2), a positive point each."""
        if output.quality is None:
            raise ValueError("a point head predicts a centerness")
        where = matches.images, matches.points
        class_targets = torch.zeros_like(output.logits)
        class_targets[(*where, matches.labels)] = 1.0
        positives = mean_number(len(matches.points), like=output.boxes)
        centers = centerness_targets(ltrb_targets(self.points[matches.points], matches.boxes))  # [P]
        return {
            "classification": sigmoid_focal_loss(output.logits, class_targets) / positives,
            "box": self.box_loss(output.boxes[where], matches.boxes, centers),
            "centerness": centerness_loss(output.quality[where], centers) / positives,
        }

    def box_loss(self, boxes: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """What the boxes of the positive points cost; a sub-class with another idea overrides this alone.

        Args:
            boxes, targets: ``[P, 4]`` xyxy, input pixels; ``P`` may be 0.
            weights: ``[P]``, the centerness of each point.

        Returns:
            A scalar: here the mean of GIoU losses, weighted.
        """
        return (giou_loss(boxes, targets) * weights).sum() / mean_across_processes(weights.sum(), least=1e-6)

    def match(self, output: HeadOutput, targets: Sequence[Targets]) -> Matches:
        """The positive points of a batch, from :meth:`assign` or as readers found them ahead.

        Heads whose assignment depends on their predictions override this.
        """
        batch = TargetBatch.of(targets)
        if batch.prepared or not self._assigns_itself():
            return self.geometry().matches(batch)
        starts = [0, *accumulate(batch.counts[:-1])]
        each = [self.assign(target.boxes).matched for target in batch]  # [N], an index in the image
        matched = [torch.where(places >= 0, places + start, places) for places, start in zip(each, starts, strict=True)]
        return Matches.of(torch.stack(matched), batch)

    def assign(self, boxes: Tensor) -> Assignment:
        """Match the points of one image to its objects ``[M, 4]`` (xyxy, input pixels): what :meth:`geometry` says.

        A sub-class with another idea overrides this, or the geometry where it has a rule for a whole batch.
        """
        labels = torch.zeros_like(boxes[:, 0], dtype=torch.int64)
        return Assignment(self.geometry()(TargetBatch.of([Targets(boxes, labels)]))[0])

    def geometry(self) -> Geometry:
        """The assignment of a whole batch that the head was asked for."""
        if self.assigner == "atss":
            rule: Rule = assign_atss_batch
        else:
            rule = partial(assign_fcos_batch, level_ranges=fcos_ranges(self.level_strides))
        return Geometry(rule, self.points, self.points_per_level, self.strides)

    def matcher(self) -> Matcher | None:
        """Matches by geometry, found by readers; None for a sub-class that assigns or matches itself."""
        if self._assigns_itself() or type(self).match is not PointHead.match:
            return None
        return self.geometry().cpu().prepare

    def _assigns_itself(self) -> bool:
        return type(self).assign is not PointHead.assign


@dataclass(frozen=True)
class TowerConfig:
    """Options of all heads with towers of convolutions.

    Attributes:
        width: channels of the head's maps and vectors, towers included.
        tower_blocks: 3x3 convolutions in each tower.
        dropout: share of the backbone's channels dropped in each training step.
    """

    width: PositiveInt = 128
    tower_blocks: NonNegativeInt = 2
    dropout: Share = 0.0


@dataclass(frozen=True)
class PyramidConfig(TowerConfig):
    """Options of the heads among them whose labels come from geometry.

    Attributes:
        assigner: ``atss``, or ``fcos`` (by regression range, center sampling).
    """

    assigner: Assigner = "atss"


class PyramidHead(PointHead):
    """A point head with FCOS's two towers, shared by the maps that a sub-class's :meth:`levels` gives.

    Args:
        strides: of the levels, input pixels.
        assigner: decides which points learn which objects, unless a sub-class does so itself.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        num_classes: int,
        strides: Sequence[float],
        config: TowerConfig,
        assigner: Assigner,
    ) -> None:
        super().__init__(spec.height, spec.width, strides, assigner)
        self.spec = spec
        self.dropout = ChannelDropout(config.dropout)
        self.class_tower = tower(config.width, config.tower_blocks)
        self.box_tower = tower(config.width, config.tower_blocks)
        self.classes: nn.Module = init_prediction(nn.Conv2d(config.width, num_classes, 3, padding=1), bias=PRIOR_BIAS)
        self.distances = init_prediction(nn.Conv2d(config.width, 4, 3, padding=1), bias=1.0)
        self.centerness = init_prediction(nn.Conv2d(config.width, 1, 3, padding=1))

    @abstractmethod
    def levels(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Backbone layers by name to one map ``[B, width, H, W]`` a stride."""

    def forward(self, features: Mapping[str, Tensor]) -> HeadOutput:
        return self.predict(self.levels(self.dropout(features)))

    def predict(self, levels: Sequence[Tensor]) -> HeadOutput:
        """Towers and predictions on ``[B, width, H, W]`` a level."""
        for_boxes = [self.box_tower(level) for level in levels]
        return self.decode(
            [self.classes(self.class_tower(level)) for level in levels],
            [self.distances(level) for level in for_boxes],
            [self.centerness(level) for level in for_boxes],
        )


def tower(width: int, blocks: int) -> nn.Sequential:
    """``blocks`` 3x3 convolutions with GroupNorm and ReLU."""
    return nn.Sequential(*(conv_norm_relu(width, width, 3) for _ in range(blocks)))


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
