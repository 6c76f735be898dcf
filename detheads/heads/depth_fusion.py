"""Depth and boxes together: a depth map learned from the boxes themselves, and its edges given back to them.

Hypothesis: depth jumps where one object ends and another begins, so features that know the depth know the borders. One
depth map is predicted from the features that detect; depth, its gradients and their magnitude go into the box tower at
every level. No depth is labelled. What is known of it is weak geometry, and it is enough to be tested:

(a) Order. A pinhole camera shows an object of height ``h`` at depth ``Z`` as ``f h / Z`` pixels tall: of two objects of
    one class the taller is nearer, and the logarithms of their inverse depths differ by the logarithm of their heights'
    ratio, as far as the objects themselves are alike. At least ``ORDER_MARGIN`` of that difference is asked for.
(b) Edge-aware smoothness. Depth is flat within a box and free to change at its border; where boxes lie one in another,
    the smallest is in front.

Sources: Godard, Mac Aodha, Brostow 2017, "Unsupervised Monocular Depth Estimation with Left-Right Consistency" (edge-
aware smoothness); Chen, Fu, Yang, Deng 2016, "Single-Image Depth Perception in the Wild" (ordinal depth); the row
``depth_fusion`` of phanerozoic/detection-heads. Refuted if the same head with the two depth losses left out, its map
then being any map, does as well.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import conv_norm_relu, join_stride
from detheads.headkit.contract import HeadOutput, Matcher
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
ORDER_WEIGHT, SMOOTHNESS_WEIGHT = 0.5, 0.5


@register(PyramidConfig)
class DepthFusion(OctaveHead):
    """Dense head whose box tower sees a depth map and its edges, learned from weak geometry."""

    depth_points: Tensor

    def __init__(self, spec: FeatureSpec, num_classes: int, config: PyramidConfig) -> None:
        super().__init__(spec, num_classes, LEVELS, config, config.assigner)
        self.depth = nn.Sequential(
            conv_norm_relu(config.width, config.width, 3), init_prediction(nn.Conv2d(config.width, 1, 3, padding=1))
        )
        self.fuse = nn.Conv2d(4, config.width, 3, padding=1)
        self.stride = join_stride(spec)
        points = grid_points(spec.height, spec.width, self.stride)
        self.register_buffer("depth_points", points, persistent=False)  # [H * W, 2]

    def predict(self, levels: Sequence[Tensor]) -> HeadOutput:
        """Dense predictions; the logarithm of the inverse depth, ``[B, H, W]`` at stride s, is in the extras."""
        log_inverse = F.logsigmoid(self.depth(levels[1]).float())  # [B, 1, H, W]
        inverse = log_inverse.exp()
        scales = [upsample_to(inverse, levels[0]), *low_passes(inverse, LEVELS - 1)]
        for_boxes = [
            self.box_tower(level + self.fuse(with_edges(scale))) for level, scale in zip(levels, scales, strict=True)
        ]
        output = self.decode(
            [self.classes(self.class_tower(level)) for level in levels],
            [self.distances(level) for level in for_boxes],
            [self.centerness(level) for level in for_boxes],
        )
        return replace(output, extras={"log_inverse_depth": log_inverse.squeeze(1)})

    def loss(self, output: HeadOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The usual terms, and what boxes say of depth: its order between objects, its flatness within them."""
        depth: Tensor = output.extras["log_inverse_depth"]  # [B, H, W]
        batch = TargetBatch.of(targets)
        owners = batch.prepared["owners"] if batch.prepared else self.owners()(batch)  # [B, H * W]
        return {
            **super().loss(output, batch),
            "depth_order": ORDER_WEIGHT * order_loss(depth, batch, self.stride),
            "depth_smoothness": SMOOTHNESS_WEIGHT * smoothness_loss(depth, owners.view_as(depth)),
        }

    def owners(self) -> Geometry:
        """Each cell of the depth map belongs to the smallest box around it, or to none."""
        points = self.depth_points
        rule = partial(assign_fcos_batch, level_ranges=[(0.0, inf)], center_radius=None)
        return Geometry(rule, points, [len(points)], torch.full_like(points[:, 0], self.stride))

    def matcher(self) -> Matcher | None:
        """Matches and owners by geometry."""
        match, owners = super().matcher(), self.owners().cpu()
        return match and (lambda targets: {**match(targets), "owners": owners(targets)})


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
