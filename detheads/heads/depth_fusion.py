"""Depth and boxes together: a depth map learned beside the boxes, and its edges given back to them.

Hypothesis: depth jumps where one object ends and another begins, so features that know the depth know the borders. One
map is predicted from the features that detect; it, its gradients and their magnitude go into the box tower at every
level. Where the map comes from is the option ``teacher``:

``cached``
    A depth map of each training picture lies in the cache (``detheads cache build --depth FOLDER``): measured, or from
    any network for depth. The predicted inverse depth follows it up to a scale and a shift of each picture, and so do
    its edges. It teaches and is no input: what is exported predicts its own depth from the picture.
``boxes``
    No depth is known, and the map is **pseudo-depth**: a map with two properties of depth that boxes tell of.
    (a) Order: a pinhole camera shows an object of height ``h`` at depth ``Z`` as ``f h / Z`` pixels tall, so that of
    two objects of one class the taller is nearer, and the logarithms of their inverse depths differ by the logarithm
    of their heights' ratio, as far as the objects are alike; at least ``ORDER_MARGIN`` of that is asked for.
    (b) Edge-aware smoothness: depth is flat within a box and free to change at its border; where boxes lie one in
    another, the smallest is in front.
``none``
    Any map that the boxes find useful.

``auto`` is ``cached`` where the cache has depth, else ``boxes``.

Sources: Ranftl et al. 2022, "Towards Robust Monocular Depth Estimation", section 5 (loss free of scale and shift, and
of gradients; means here in place of medians); Godard, Mac Aodha, Brostow 2017, "Unsupervised Monocular Depth Estimation
with Left-Right Consistency" (edge-aware smoothness); Chen, Fu, Yang, Deng 2016, "Single-Image Depth Perception in the
Wild" (ordinal depth); the row ``depth_fusion`` of phanerozoic/detection-heads. Refuted if the same head with any map
(``teacher=none``), with depth learned but kept from the boxes (``fused=false``), or with neither, does as well:
``detheads arena run --heads depth_fusion --with-controls``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detheads.backbones.features import DEPTH, FeatureSpec
from detheads.foundation.errors import UserError
from detheads.headkit.blocks import conv_norm_relu, join_stride
from detheads.headkit.contract import HeadOutput, Matcher
from detheads.headkit.controls import Control
from detheads.headkit.dense import PyramidConfig, init_prediction
from detheads.headkit.matching import Geometry
from detheads.headkit.octaves import OctaveHead
from detheads.headkit.registry import register
from detheads.ops.across import mean_across_processes
from detheads.ops.cofiber import low_passes, upsample_to
from detheads.ops.points import grid_points
from detheads.targets.fcos import assign_fcos_batch
from detheads.targets.objects import TargetBatch, Targets

LEVELS = 4
ORDER_MARGIN = 0.5
"""Share of the log height ratio by which log inverse depths have to differ: objects of one class are not all alike."""
ORDER_WEIGHT, SMOOTHNESS_WEIGHT, IMITATION_WEIGHT = 0.5, 0.5, 0.5
LEAST_SPREAD = 0.01
"""Mean deviation of an inverse depth map, 1 being nearest, below which it counts as flat and is not stretched."""


@dataclass(frozen=True)
class Config(PyramidConfig):
    """Options of ``depth_fusion``.

    Attributes:
        teacher: of the map: the depth that the cache holds (``cached``), what boxes tell of it (``boxes``), or
            ``none``; ``auto`` is the first of these that there is.
        fused: give the map and its edges to the box tower; else it is learned beside the boxes, where it is taught.
    """

    teacher: Literal["auto", "cached", "boxes", "none"] = "auto"
    fused: bool = True


@register(Config)
class DepthFusion(OctaveHead):
    """Dense head whose box tower sees a depth map and its edges: cached depth teaches it, or else boxes do."""

    controls = MappingProxyType(
        {
            "depth": Control("Features that know the depth know the borders.", {"teacher": "none"}),
            "fusion": Control("Boxes gain from seeing depth, not from its being learned.", {"fused": False}),
            "map": Control(
                "A map of depth beside the boxes is worth its parameters.", {"teacher": "none", "fused": False}
            ),
        }
    )
    depth_points: Tensor

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        super().__init__(spec, num_classes, LEVELS, config, config.assigner)
        self.teacher, self.stride = _teacher(spec, config), join_stride(spec)
        seen = config.fused or self.teacher != "none"
        self.depth = (
            nn.Sequential(
                conv_norm_relu(config.width, config.width, 3), init_prediction(nn.Conv2d(config.width, 1, 3, padding=1))
            )
            if seen
            else None
        )
        self.fuse = nn.Conv2d(4, config.width, 3, padding=1) if config.fused else None
        points = grid_points(spec.height, spec.width, self.stride)
        self.register_buffer("depth_points", points, persistent=False)  # [H * W, 2]

    @property
    def remark(self) -> str:
        """What the map is that this head learns."""
        return {
            "cached": "depth_fusion learns depth from the cache's depth maps, and predicts its own from then on",
            "boxes": "depth_fusion has no depth to learn from: its map is pseudo-depth, with the order and flatness "
            "that boxes tell of ('detheads cache build --depth FOLDER' adds depth maps to a cache)",
            "none": "depth_fusion is taught no depth: its map is any that the boxes find useful",
        }[self.teacher]

    def forward(self, features: Mapping[str, Tensor]) -> HeadOutput:
        """Dense predictions; a cached depth map among the features is for the loss alone."""
        output = super().forward({name: values for name, values in features.items() if name != DEPTH})
        if self.teacher != "cached" or DEPTH not in features:
            return output
        return replace(output, extras={**output.extras, DEPTH: features[DEPTH].squeeze(1)})

    def predict(self, levels: Sequence[Tensor]) -> HeadOutput:
        """Dense predictions; the logarithm of the inverse depth, ``[B, H, W]`` at stride s, is in the extras."""
        if self.depth is None:
            return super().predict(levels)
        log_inverse = F.logsigmoid(self.depth(levels[1]).float())  # [B, 1, H, W]
        for_boxes = [self.box_tower(level) for level in self.with_depth(levels, log_inverse.exp())]
        output = self.decode(
            [self.classes(self.class_tower(level)) for level in levels],
            [self.distances(level) for level in for_boxes],
            [self.centerness(level) for level in for_boxes],
        )
        return replace(output, extras={"log_inverse_depth": log_inverse.squeeze(1)})

    def with_depth(self, levels: Sequence[Tensor], inverse: Tensor) -> Sequence[Tensor]:
        """The levels for the box tower, told the inverse depth ``[B, 1, H, W]`` of stride s."""
        if self.fuse is None:
            return levels
        scales = [upsample_to(inverse, levels[0]), *low_passes(inverse, LEVELS - 1)]
        return [level + self.fuse(with_edges(scale)) for level, scale in zip(levels, scales, strict=True)]

    def loss(self, output: HeadOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The usual terms, and what is known of depth: the cached map, or its order and flatness by the boxes."""
        batch = TargetBatch.of(targets)
        losses = super().loss(output, batch)
        if self.teacher == "none":
            return losses
        depth: Tensor = output.extras["log_inverse_depth"]  # [B, H, W]
        if self.teacher == "cached":
            values, edges = imitation_loss(depth.exp(), output.extras[DEPTH])
            return {**losses, "depth": IMITATION_WEIGHT * values, "depth_edges": IMITATION_WEIGHT * edges}
        owners = batch.prepared["owners"] if batch.prepared else self.owners()(batch)  # [B, H * W]
        return {
            **losses,
            "depth_order": ORDER_WEIGHT * order_loss(depth, batch, self.stride),
            "depth_smoothness": SMOOTHNESS_WEIGHT * smoothness_loss(depth, owners.view_as(depth)),
        }

    def owners(self) -> Geometry:
        """Each cell of the depth map belongs to the smallest box around it, or to none."""
        points = self.depth_points
        rule = partial(assign_fcos_batch, level_ranges=[(0.0, inf)], center_radius=None)
        return Geometry(rule, points, [len(points)], torch.full_like(points[:, 0], self.stride))

    def matcher(self) -> Matcher | None:
        """Matches, and owners where boxes teach, by geometry."""
        match = super().matcher()
        if match is None or self.teacher != "boxes":
            return match
        owners = self.owners().cpu()
        return lambda targets: {**match(targets), "owners": owners(targets)}


def _teacher(spec: FeatureSpec, config: Config) -> Literal["cached", "boxes", "none"]:
    there = DEPTH in spec.names
    if config.teacher == "cached" and not there:
        raise UserError(
            f"head depth_fusion with teacher=cached learns from depth maps, which these features "
            f"({', '.join(spec.names)}) do not hold; cache them with 'detheads cache build ... --depth FOLDER'."
        )
    if config.teacher == "auto":
        return "cached" if there else "boxes"
    return config.teacher


def imitation_loss(inverse: Tensor, cached: Tensor) -> tuple[Tensor, Tensor]:
    """How far a map is from a cached one, whatever the scale and shift of each picture, and how far its edges are.

    Both maps lose their mean and are divided by their mean absolute deviation, over the known cells of a picture.

    Args:
        inverse: ``[B, H, W]``, the predicted inverse depth, in ``[0, 1]``.
        cached: ``[B, H, W]``, the cached one; a cell of 0 is unknown and costs nothing.

    Returns:
        Two scalars: the mean absolute difference of the maps, and of their steps from each cell to the next.
    """
    known = (cached > 0).to(inverse.dtype)
    gap = (_standardised(inverse, known) - _standardised(cached, known)) * known
    steps, pairs = [], []
    for dim in (1, 2):
        size = gap.shape[dim] - 1
        both = known.narrow(dim, 0, size) * known.narrow(dim, 1, size)
        steps.append((gap.diff(dim=dim).abs() * both).sum())
        pairs.append(both.sum())
    values = gap.abs().sum() / mean_across_processes(known.sum(), least=1.0)
    return values, torch.stack(steps).sum() / mean_across_processes(torch.stack(pairs).sum(), least=1.0)


def _standardised(values: Tensor, known: Tensor) -> Tensor:
    """Values ``[B, H, W]`` less their mean over the known cells of each map, in mean absolute deviations."""
    count = known.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    centred = values - (values * known).sum(dim=(1, 2), keepdim=True) / count
    spread = (centred.abs() * known).sum(dim=(1, 2), keepdim=True) / count
    return centred / spread.clamp(min=LEAST_SPREAD)


def with_edges(depth: Tensor) -> Tensor:
    """``[B, 1, H, W]`` -> the map, its central differences along x and y, and their magnitude: ``[B, 4, H, W]``."""
    wide, tall = F.pad(depth, (1, 1, 0, 0), mode="replicate"), F.pad(depth, (0, 0, 1, 1), mode="replicate")
    dx = (wide[..., 2:] - wide[..., :-2]) / 2
    dy = (tall[..., 2:, :] - tall[..., :-2, :]) / 2
    # The small constant keeps the root's gradient finite where depth is flat.
    return torch.cat((depth, dx, dy, (dx.square() + dy.square() + 1e-8).sqrt()), dim=1)


def order_loss(log_inverse: Tensor, targets: TargetBatch, stride: float) -> Tensor:
    """Hinge on every pair of objects of one class in one image: the taller is nearer, by a margin.

    Args:
        log_inverse: ``[B, H, W]``, logarithm of the inverse depth; larger is nearer. An object's is the mean over its
            box, each cell counted as far as the box covers it.
        stride: of the map, input pixels.

    Returns:
        A scalar, the mean over the pairs, 0 where there are none.
    """
    images, boxes, labels = targets.images, targets.boxes, targets.labels  # [T], [T, 4], [T]
    height, width = log_inverse.shape[1:]
    across = _coverage(boxes[:, 0::2] / stride, width)  # [T, W]
    along = _coverage(boxes[:, 1::2] / stride, height)  # [T, H]
    total = torch.einsum("th,thw,tw->t", along, log_inverse[images], across)
    near = total / (along.sum(dim=1) * across.sum(dim=1)).clamp(min=1e-6)  # [T]
    tall = (boxes[:, 3] - boxes[:, 1]).clamp(min=1).log()
    comparable = (images[:, None] == images) & (labels[:, None] == labels) & (tall[:, None] > tall)  # [T, T]
    missing = (ORDER_MARGIN * (tall[:, None] - tall) - (near[:, None] - near)).relu()
    return (missing * comparable).sum() / mean_across_processes(comparable.sum(), least=1.0)


def smoothness_loss(log_inverse: Tensor, owners: Tensor) -> Tensor:
    """Mean absolute difference of neighbours that belong to one object; a step at a border costs nothing.

    Args:
        log_inverse: ``[B, H, W]``.
        owners: ``[B, H, W]`` int64, the object of each cell, -1 for none.
    """
    total, count = [], []
    for dim in (1, 2):
        size = owners.shape[dim] - 1
        first, second = owners.narrow(dim, 0, size), owners.narrow(dim, 1, size)
        within = (first == second) & (first >= 0)
        total.append((log_inverse.diff(dim=dim).abs() * within).sum())
        count.append(within.sum())
    return torch.stack(total).sum() / mean_across_processes(torch.stack(count).sum(), least=1.0)


def _coverage(ranges: Tensor, cells: int) -> Tensor:
    """How much of each cell ``[i, i + 1)`` lies in each range ``[T, 2]``: ``[T, cells]`` in ``[0, 1]``."""
    start = torch.arange(cells, device=ranges.device, dtype=ranges.dtype)
    return (torch.minimum(ranges[:, 1:], start + 1) - torch.maximum(ranges[:, :1], start)).clamp(min=0)
