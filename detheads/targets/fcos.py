"""FCOS assignment: points inside a box, at the level whose range covers the box's extent seen from the point."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detheads.targets.assignment import MOST_PAIRS


def assign_fcos(
    points: Tensor,
    points_per_level: Sequence[int],
    strides: Tensor,
    boxes: Tensor,
    *,
    level_ranges: Sequence[tuple[float, float]],
    center_radius: float | None = 1.5,
) -> Tensor:
    """:func:`assign_fcos_batch` for the objects ``[M, 4]`` of one image: ``[N]``."""
    images = torch.zeros_like(boxes[:, 0], dtype=torch.int64)
    return assign_fcos_batch(
        points, points_per_level, strides, boxes, images, 1, level_ranges=level_ranges, center_radius=center_radius
    )[0]


def assign_fcos_batch(
    points: Tensor,
    points_per_level: Sequence[int],
    strides: Tensor,
    boxes: Tensor,
    images: Tensor,
    count: int,
    *,
    level_ranges: Sequence[tuple[float, float]],
    center_radius: float | None = 1.5,
) -> Tensor:
    """Assign points to objects as Tian et al. 2019, "FCOS: Fully Convolutional One-Stage Object Detection".

    A point takes an object when it lies strictly inside the box (and strictly inside the square of half side
    ``center_radius * stride`` around the box's centre, the authors' center sampling), and when the largest of its
    four distances is within the range of its level, both ends included. A point with several such objects takes
    the one with the smallest area, the first of equals.

    Args:
        points: ``[N, 2]`` xy in input pixels, level after level.
        points_per_level: number of points of each level; sums to ``N``.
        strides: ``[N]`` stride of each point in input pixels.
        boxes: ``[T, 4]`` xyxy in input pixels, the objects of all images; ``T`` may be 0.
        images: ``[T]`` int64, the image of each object.
        count: number of images ``B``.
        level_ranges: ``(low, high)`` in input pixels for each level.
        center_radius: radius of center sampling in strides; None takes every point inside the box.

    Returns:
        ``[B, N]`` int64, the index of the object among the ``T``, or -1.

    Raises:
        ValueError: when the levels do not cover the points or have no range each.
    """
    if sum(points_per_level) != len(points) or len(points_per_level) != len(level_ranges):
        raise ValueError(
            f"{len(points)} points and {len(level_ranges)} ranges do not fit levels of {list(points_per_level)} points"
        )
    total = len(boxes)
    if total == 0:
        return images.new_full((count, len(points)), -1)
    low, high = (
        torch.cat([points.new_full((size,), edge) for size, edge in zip(points_per_level, edges, strict=True)])
        for edges in zip(*level_ranges, strict=True)
    )  # [N] each
    # The smallest area as the lowest place in the order of areas, a number an object, which settles ties as well.
    order = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).argsort(stable=True)  # [T]
    place = torch.empty_like(order).scatter(0, order, torch.arange(total, device=order.device))
    smallest = images.new_full((count, len(points)), total)  # [B, N]
    step = max(1, MOST_PAIRS // max(1, len(points)))
    for some, owners, places in zip(boxes.split(step), images.split(step), place.split(step), strict=True):
        candidate = _candidates(points, strides, low, high, some, center_radius)  # [S, N]
        found = torch.where(candidate, places[:, None], total)
        smallest = smallest.scatter_reduce(0, owners[:, None].expand_as(found), found, "amin")
    return F.pad(order, (0, 1), value=-1)[smallest]


def _candidates(
    points: Tensor, strides: Tensor, low: Tensor, high: Tensor, boxes: Tensor, center_radius: float | None
) -> Tensor:
    """Whether each point may take each object, ``[S, N]`` bool, with the range ``low`` to ``high`` ``[N]`` of each."""
    x, y = points.unbind(dim=1)  # [N] each
    x1, y1, x2, y2 = boxes.unsqueeze(2).unbind(dim=1)  # [S, 1] each
    # Edge by edge rather than as [S, N, 4]: reductions over a last dimension of four are several times slower.
    left, top, right, bottom = x - x1, y - y1, x2 - x, y2 - y  # [S, N] each
    nearest = torch.minimum(torch.minimum(left, right), torch.minimum(top, bottom))
    extent = torch.maximum(torch.maximum(left, right), torch.maximum(top, bottom))
    candidate = (nearest > 0) & (extent >= low) & (extent <= high)
    if center_radius is not None:
        radius = center_radius * strides  # [N]
        candidate &= ((x - (x1 + x2) / 2).abs() < radius) & ((y - (y1 + y2) / 2).abs() < radius)
    return candidate
