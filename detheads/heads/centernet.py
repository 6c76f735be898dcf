"""Objects as points: an object is the peak of its class's heatmap, and needs no suppression.

Hypothesis: on features of a strong frozen encoder, whose every patch has seen the whole image, one grid is enough: an
object of any size is one point, its centre, at which its size and the rest of its position can be read off. A point
counts only where its class is highest among its eight neighbours, so that no box ever has to be compared with another.

Sources: Zhou, Wang, Krähenbühl. Objects as Points. 2019. Law, Deng. CornerNet. ECCV 2018 (the heatmap loss). Boxes
learn the overlap, as in Liu et al. Training-Time-Friendly Network. AAAI 2020. phanerozoic/detection-heads, row
``centernet``. Refuted if a pyramid head of equal size does better on the large objects of the same cache.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import (
    ChannelDropout,
    DepthwiseResidual,
    FinerLevel,
    conv_norm_relu,
    join_main,
    join_stride,
    joined_channels,
)
from detheads.headkit.contract import Head, HeadOutput
from detheads.headkit.dense import (
    MAX_LOG_DISTANCE,
    TowerConfig,
    init_prediction,
    tower,
)
from detheads.headkit.peaks import peaks
from detheads.headkit.prior import PRIOR_BIAS
from detheads.headkit.registry import register
from detheads.ops.across import mean_number
from detheads.ops.losses import giou_loss, heatmap_focal_loss
from detheads.ops.points import flatten_levels, grid_points
from detheads.targets.heatmap import gaussian_radius, grid_cells, heatmaps_of
from detheads.targets.objects import TargetBatch, Targets

MIN_IOU = 0.7
"""A point counts as close to a centre when a box so far off still has this IoU."""

BOX_WEIGHT = 2.0
"""Weight of the overlap loss beside that of the heatmaps."""


@register(TowerConfig)
class CenterNet(Head):
    """Centres as the peaks of class heatmaps, size and offset read off there, no suppression."""

    nms_free: ClassVar[bool] = True
    points: Tensor

    def __init__(self, spec: FeatureSpec, num_classes: int, config: TowerConfig) -> None:
        super().__init__()
        width = config.width
        self.spec, self.stride = spec, join_stride(spec) / 2
        self.register_buffer("points", grid_points(spec.height, spec.width, self.stride), persistent=False)  # [N, 2]
        self.dropout = ChannelDropout(config.dropout)
        self.stem = nn.Sequential(conv_norm_relu(joined_channels(spec), width, 1), tower(width, config.tower_blocks))
        self.finer = FinerLevel(spec, width)
        self.for_classes = DepthwiseResidual(width)
        self.for_boxes = DepthwiseResidual(width)
        self.classes = init_prediction(nn.Conv2d(width, num_classes, 1), bias=PRIOR_BIAS)
        self.sizes = init_prediction(nn.Conv2d(width, 2, 1), bias=1.0)
        self.offsets = init_prediction(nn.Conv2d(width, 2, 1))

    def forward(self, features: Mapping[str, Tensor]) -> HeadOutput:
        features = self.dropout(features)
        grid = self.finer(self.stem(join_main(features, self.spec)), features)  # [B, width, H, W] at stride s/2
        for_boxes = self.for_boxes(grid)
        heatmaps = self.classes(self.for_classes(grid)).float()  # [B, K, H, W]
        # The offset is from the middle of the cell, half a cell at most.
        centers = self.points + flatten_levels([self.offsets(for_boxes)]).tanh() * (self.stride / 2)  # [B, N, 2]
        half = flatten_levels([self.sizes(for_boxes)]).clamp(max=MAX_LOG_DISTANCE).exp() * (self.stride / 2)
        boxes = torch.cat((centers - half, centers + half), dim=2)  # [B, N, 4]
        return HeadOutput(boxes, flatten_levels([peaks(heatmaps)]), None, {"heatmaps": heatmaps})

    def loss(self, output: HeadOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Heatmap loss of all points, and GIoU loss of the boxes at the centres, an object each."""
        heatmaps: Tensor = output.extras["heatmaps"]
        batch = TargetBatch.of(targets)
        low, high = batch.boxes[:, :2], batch.boxes[:, 2:]
        cells, _ = grid_cells((low + high) / 2, self.stride, *heatmaps.shape[2:])  # [T, 2]
        radii = gaussian_radius((high - low) / self.stride, MIN_IOU)
        wanted = heatmaps_of(batch, cells, radii, heatmaps.shape)
        found = output.boxes[batch.images, cells[:, 1] * heatmaps.shape[3] + cells[:, 0]]  # [T, 4]
        objects = mean_number(len(found), like=found)
        overlap = giou_loss(found, batch.boxes)  # [T]
        return {
            "heatmap": heatmap_focal_loss(heatmaps, wanted) / objects,
            "box": BOX_WEIGHT * overlap.sum() / objects,
        }
