"""Objects as points: an object is the peak of its class's heatmap, and needs no suppression.

Hypothesis: on features of a strong frozen encoder, whose every patch has seen the whole image, one grid is enough: an
object of any size is one point, its centre, at which its size and the rest of its position can be read off. A point
counts only where its class is highest among its eight neighbours, so that no box ever has to be compared with another.

Sources: Zhou, Wang, Krähenbühl. Objects as Points. 2019. Law, Deng. CornerNet. ECCV 2018 (the heatmap loss). Boxes
learn the overlap, as in Liu et al. Training-Time-Friendly Network. AAAI 2020. phanerozoic/detection-heads, row
``centernet``. Refuted if large objects are found better on grids an octave apart (``grids=4``), or if suppression
(``peaks=false``) does better than peaks, in ``detheads arena run --heads centernet --with-controls``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import MappingProxyType

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import (
    ChannelDropout,
    DepthwiseResidual,
    FinerLevel,
    conv_norm_relu,
    join_main,
    joined_channels,
)
from detheads.headkit.contract import Head, HeadOutput
from detheads.headkit.controls import NEARLY, Control
from detheads.headkit.dense import (
    MAX_LOG_DISTANCE,
    TowerConfig,
    init_prediction,
    tower,
)
from detheads.headkit.grids import OnGrids
from detheads.headkit.octaves import octave_levels, octave_strides
from detheads.headkit.peaks import peaks
from detheads.headkit.prior import PRIOR_BIAS
from detheads.headkit.registry import register
from detheads.ops.across import mean_number
from detheads.ops.losses import giou_loss, heatmap_focal_loss
from detheads.ops.points import flatten_levels
from detheads.targets.heatmap import gaussian_radius, grid_cells, heatmaps_of
from detheads.targets.objects import TargetBatch, Targets

MIN_IOU = 0.7
"""A point counts as close to a centre when a box so far off still has this IoU."""

BOX_WEIGHT = 2.0
"""Weight of the overlap loss beside that of the heatmaps."""


REACH = 16
"""Longest side, in strides, of the objects of a grid: twice FCOS's longest distance (Tian et al. 2019)."""

FAR = -(10**6)
"""Row and column of an object that another grid holds: so far off that its Gaussian is nothing here."""


@dataclass(frozen=True)
class Config(TowerConfig):
    """Options of ``centernet``.

    Attributes:
        grids: an octave apart, the finest of half the stride of the joined map; each object belongs to one of them.
        peaks: a point counts where its class is highest among its neighbours; else all count, and suppression follows.
    """

    grids: PositiveInt = 1
    peaks: bool = True


@register(Config)
class CenterNet(OnGrids, Head):
    """Centres as the peaks of class heatmaps, size and offset read off there, no suppression."""

    nms_free = True
    controls = MappingProxyType(
        {
            "one_grid": Control("One grid is enough for objects of any size.", {"grids": 4}, "APl", allowance=NEARLY),
            "peaks": Control("Peaks tell objects apart as well as suppression.", {"peaks": False}, allowance=NEARLY),
        }
    )

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        super().__init__()
        width = config.width
        self.spec, self.grids, self.nms_free = spec, config.grids, config.peaks
        self.lay_grids(spec.height, spec.width, octave_strides(spec, config.grids))
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
        grids = octave_levels(self.stem(join_main(features, self.spec)), self.finer, features, self.grids)
        for_boxes = [self.for_boxes(grid) for grid in grids]  # [B, width, H, W] each, the finest at stride s/2
        heatmaps = [self.classes(self.for_classes(grid)).float() for grid in grids]  # [B, K, H, W] each
        # The offset is from the middle of the cell, half a cell at most.
        reach = self.strides[:, None] / 2  # [N, 1]
        centers = self.points + flatten_levels([self.offsets(grid) for grid in for_boxes]).tanh() * reach  # [B, N, 2]
        half = flatten_levels([self.sizes(grid) for grid in for_boxes]).clamp(max=MAX_LOG_DISTANCE).exp() * reach
        boxes = torch.cat((centers - half, centers + half), dim=2)  # [B, N, 4]
        counted = [peaks(maps) for maps in heatmaps] if self.nms_free else heatmaps
        return HeadOutput(boxes, flatten_levels(counted), None, {"heatmaps": heatmaps})

    def loss(self, output: HeadOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Heatmap loss of all points, and GIoU loss of the boxes at the centres, an object each."""
        batch = TargetBatch.of(targets)
        low, high = batch.boxes[:, :2], batch.boxes[:, 2:]
        own = self.grid_of(high - low)  # [T]
        starts = 0, *accumulate(self.points_per_level[:-1])
        losses, places = [], []
        grids = zip(output.extras["heatmaps"], self.level_strides, starts, strict=True)
        for grid, (heatmaps, stride, start) in enumerate(grids):
            cells, _ = grid_cells((low + high) / 2, stride, *heatmaps.shape[2:])  # [T, 2]
            places.append(start + cells[:, 1] * heatmaps.shape[3] + cells[:, 0])
            radii = gaussian_radius((high - low) / stride, MIN_IOU)
            here = cells.masked_fill((own != grid)[:, None], FAR)
            losses.append(heatmap_focal_loss(heatmaps, heatmaps_of(batch, here, radii, heatmaps.shape)))
        found = output.boxes[batch.images, torch.stack(places).gather(0, own[None])[0]]  # [T, 4]
        objects = mean_number(len(found), like=found)
        overlap = giou_loss(found, batch.boxes)  # [T]
        return {
            "heatmap": torch.stack(losses).sum() / objects,
            "box": BOX_WEIGHT * overlap.sum() / objects,
        }

    def grid_of(self, sizes: Tensor) -> Tensor:
        """The grid ``[T]`` int64 that finds objects of these sizes ``[T, 2]``: the coarser, the longer their side."""
        longest = sizes.amax(dim=1)
        grid = torch.zeros_like(longest, dtype=torch.int64)
        for stride in self.level_strides[:-1]:
            grid = grid + (longest > REACH * stride)
        return grid
