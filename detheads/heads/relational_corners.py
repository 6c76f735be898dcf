"""Relational corners: an object is a pair of corners that belong together.

Hypothesis: the two corners of a box are easier to place than its centre, each depends on two sides only, not on four,
and which corners belong together is a relation that one learned number a corner can carry. As nothing but background
lies outside the box at its corner, corner pooling carries the object there: the strongest response to the right and
below for a top-left corner, to the left and above for a bottom-right one.

Sources: Law, Deng. CornerNet: Detecting Objects as Paired Keypoints. ECCV 2018. Newell, Huang, Deng. Associative
Embedding. NeurIPS 2017. phanerozoic/detection-heads, row ``relational_corners``. Refuted if corners that see no
further than their convolutions (``corner_pooling=false``), or pairs that nothing but their scores relates
(``relations=false``), do as well in ``detheads arena run --heads relational_corners --with-controls``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import (
    ChannelDropout,
    DepthwiseResidual,
    FinerLevel,
    conv_norm,
    conv_norm_relu,
    join_main,
    join_stride,
    joined_channels,
)
from detheads.headkit.contract import Head, HeadOutput
from detheads.headkit.controls import Control
from detheads.headkit.dense import TowerConfig, init_prediction, tower
from detheads.headkit.peaks import FLOOR, peaks
from detheads.headkit.prior import PRIOR_BIAS
from detheads.headkit.registry import register
from detheads.ops.across import mean_number
from detheads.ops.decisions import decide
from detheads.ops.losses import heatmap_focal_loss
from detheads.ops.points import grid_points
from detheads.ops.ranking import highest
from detheads.targets.heatmap import gaussian_radius, grid_cells, heatmaps_of
from detheads.targets.objects import TargetBatch, Targets

MIN_IOU = 0.3
"""A point counts as close to a corner when a box with corners so far off still has this IoU (Law & Deng 2018)."""

MARGIN = 1.0
"""Embeddings of different objects are pushed so far apart."""

DISTANCE_COST = 8.0
"""A pair's logits fall by so much for each unit between its embeddings: half of the margin turns 0.9 into 0.14."""

EMBEDDING_WEIGHT = 0.5
"""Weight of the embedding losses beside those of heatmaps and offsets."""


@dataclass(frozen=True)
class Config(TowerConfig):
    """Options of ``relational_corners``.

    Attributes:
        corners: corners of each kind that are paired, all of them where there are fewer cells.
        corner_pooling: carries an object to its corners.
        relations: corners have an embedding, by which they are paired.
    """

    corners: PositiveInt = 50
    corner_pooling: bool = True
    relations: bool = True


@dataclass(frozen=True)
class Corners:
    """Dense maps of one kind of corner.

    Attributes:
        heatmaps: ``[B, K, H, W]`` logits.
        embeddings: ``[B, 1, H, W]``, alike for the two corners of an object; zeros without relations.
        offsets: ``[B, 2, H, W]`` xy in ``[0, 1]``, where in its cell the corner lies.
    """

    heatmaps: Tensor
    embeddings: Tensor
    offsets: Tensor


@register(Config)
class RelationalCorners(Head):
    """Corner heatmaps with corner pooling, paired by learned embeddings."""

    controls = MappingProxyType(
        {
            "corner_pooling": Control(
                "Corners are found where the object is carried to them.", {"corner_pooling": False}
            ),
            "relations": Control("A learned number tells which corners belong together.", {"relations": False}),
        }
    )
    cells: Tensor

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        super().__init__()
        width, self.corners = config.width, config.corners
        self.spec, self.stride = spec, join_stride(spec) / 2
        cells = grid_points(spec.height, spec.width, self.stride) / self.stride - 0.5
        self.register_buffer("cells", cells, persistent=False)  # [N, 2] (column, row)
        self.dropout = ChannelDropout(config.dropout)
        self.stem = nn.Sequential(conv_norm_relu(joined_channels(spec), width, 1), tower(width, config.tower_blocks))
        self.finer = FinerLevel(spec, width)
        self.relations = config.relations
        self.top_left = CornerBranch(config, num_classes, ahead=True)
        self.bottom_right = CornerBranch(config, num_classes, ahead=False)

    def forward(self, features: Mapping[str, Tensor]) -> HeadOutput:
        features = self.dropout(features)
        grid = self.finer(self.stem(join_main(features, self.spec)), features)  # [B, width, H, W] at stride s/2
        starts, ends = self.top_left(grid), self.bottom_right(grid)
        boxes, logits = self.pair(starts, ends)
        return HeadOutput(boxes, logits, None, {"starts": starts, "ends": ends})

    def pair(self, starts: Corners, ends: Corners) -> tuple[Tensor, Tensor]:
        """Boxes ``[B, C * C, 4]`` and logits ``[B, C * C, K]`` of all pairs of the ``C`` best corners of each kind."""
        low, first, name = (values.unsqueeze(2) for values in self.best(starts))  # [B, C, 1, 2 or K or 1]
        high, second, other = (values.unsqueeze(1) for values in self.best(ends))  # [B, 1, C, 2 or K or 1]
        logits = (first + second) / 2 - DISTANCE_COST * (name - other).abs()  # [B, C, C, K]
        least = (high - low).detach().amin(dim=3, keepdim=True)  # [B, C, C, 1]
        possible = decide(least, lambda sides: sides > 0)
        logits = torch.where(possible, logits.clamp(min=FLOOR), FLOOR)
        high = torch.maximum(low, high)  # [B, C, C, 2]; an impossible pair is a box without area
        return torch.cat((low.expand_as(high), high), dim=3).flatten(1, 2), logits.flatten(1, 2)

    def best(self, corners: Corners) -> tuple[Tensor, Tensor, Tensor]:
        """Positions ``[B, C, 2]`` (xy, input pixels), logits ``[B, C, K]`` and embeddings ``[B, C, 1]`` of the ``C``
        highest peaks."""
        logits = peaks(corners.heatmaps).flatten(2)  # [B, K, N]
        _, chosen = highest(logits.detach().amax(dim=1), min(self.corners, logits.shape[2]))  # [B, C]

        def at(maps: Tensor) -> Tensor:
            return maps.gather(2, chosen.unsqueeze(1).expand(-1, maps.shape[1], -1)).transpose(1, 2)  # [B, C, maps]

        positions = (self.cells[chosen] + at(corners.offsets.flatten(2))) * self.stride
        return positions, at(logits), at(corners.embeddings.flatten(2))

    def loss(self, output: HeadOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Heatmap and offset loss of both kinds of corner, an object each; embedding loss, an image each."""
        starts: Corners = output.extras["starts"]
        ends: Corners = output.extras["ends"]
        batch = TargetBatch.of(targets)
        radii = gaussian_radius((batch.boxes[:, 2:] - batch.boxes[:, :2]) / self.stride, MIN_IOU)
        heatmap, offset, names = [], [], []
        for corners, columns in ((starts, slice(0, 2)), (ends, slice(2, 4))):
            cells, offsets = grid_cells(batch.boxes[:, columns], self.stride, *corners.heatmaps.shape[2:])
            column, row = cells.unbind(dim=1)
            found = corners.offsets[batch.images, :, row, column]  # [T, 2]
            offset.append(F.smooth_l1_loss(found, offsets, reduction="sum"))
            names.append(corners.embeddings[batch.images, 0, row, column])  # [T]
            wanted = heatmaps_of(batch, cells, radii, corners.heatmaps.shape)
            heatmap.append(heatmap_focal_loss(corners.heatmaps, wanted))
        objects, images = (mean_number(number, like=radii) for number in (len(radii), len(batch)))
        losses = {"heatmap": torch.stack(heatmap).sum() / objects, "offset": torch.stack(offset).sum() / objects}
        if self.relations:
            losses["embedding"] = EMBEDDING_WEIGHT * associative_loss(names[0], names[1], batch.images) / images
        return losses


class CornerBranch(nn.Module):
    """Corner pooling, then the maps of one kind of corner.

    Args:
        ahead: the object lies to the right and below (a top-left corner), else to the left and above.
    """

    def __init__(self, config: Config, num_classes: int, *, ahead: bool) -> None:
        super().__init__()
        self.ahead, self.pooling, width = ahead, config.corner_pooling, config.width
        pooled = max(1, width // 2)
        self.along_row = conv_norm_relu(width, pooled, 1)
        self.along_column = conv_norm_relu(width, pooled, 1)
        self.merge = conv_norm(pooled, width, 1)
        self.mix = DepthwiseResidual(width)
        self.heatmaps = init_prediction(nn.Conv2d(width, num_classes, 1), bias=PRIOR_BIAS)
        self.embeddings = init_prediction(nn.Conv2d(width, 1, 1)) if config.relations else None
        self.offsets = init_prediction(nn.Conv2d(width, 2, 1))

    def forward(self, grid: Tensor) -> Corners:
        """``[B, width, H, W]`` to the maps of its corners."""
        across, down = self.along_row(grid), self.along_column(grid)
        if self.pooling:
            across, down = running_max(across, 3, ahead=self.ahead), running_max(down, 2, ahead=self.ahead)
        x = self.mix(F.relu(grid + self.merge(across + down)))  # [B, width, H, W]
        heatmaps = self.heatmaps(x).float()
        embeddings = torch.zeros_like(heatmaps[:, :1]) if self.embeddings is None else self.embeddings(x).float()
        return Corners(heatmaps, embeddings, self.offsets(x).float().sigmoid())


def running_max(x: Tensor, dim: int, *, ahead: bool) -> Tensor:
    """The largest value from each place to the end along ``dim`` (``ahead``), or from the start to it.

    A window that doubles ``log2(n)`` times: slices, maxima and concatenations, which every engine has.
    """
    size = x.shape[dim]
    for step in range(math.ceil(math.log2(size))):
        reach = 2**step
        low, high = x.narrow(dim, 0, size - reach), x.narrow(dim, reach, size - reach)
        larger = torch.maximum(low, high)
        rim = x.narrow(dim, size - reach if ahead else 0, reach)  # sees its whole rest already
        x = torch.cat((larger, rim) if ahead else (rim, larger), dim=dim)
    return x


def associative_loss(first: Tensor, second: Tensor, images: Tensor) -> Tensor:
    """Pull the two embeddings of each object together, push the objects of an image apart (Law & Deng, eq. 4 and 5).

    Args:
        first, second: ``[T]``, the embeddings of the two corners of each object; ``T`` may be 0.
        images: ``[T]`` int64, the image of each object.

    Returns:
        A scalar, summed over the images: the mean over the objects of the squared distances of the corners to their
        middle, and the mean over ordered pairs of objects of what their middles lack in distance.
    """
    together = images[:, None] == images  # [T, T]
    objects = together.sum(dim=1)  # [T], how many its image has
    middle = (first + second) / 2
    pull = (((first - middle).square() + (second - middle).square()) / objects).sum()
    lacking = (MARGIN - (middle[:, None] - middle).abs()).relu() * together  # [T, T]
    pairs = objects * (objects - 1)
    return pull + ((lacking.sum(dim=1) - lacking.diagonal()) / pairs.clamp(min=1)).sum()
