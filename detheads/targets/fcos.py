"""FCOS assignment: points inside a box, at the level whose range covers the box's extent seen from the point."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def assign_fcos(
    points: Tensor,
    points_per_level: Sequence[int],
    strides: Tensor,
    boxes: Tensor,
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
        boxes: ``[M, 4]`` xyxy in input pixels; ``M`` may be 0.
        level_ranges: ``(low, high)`` in input pixels for each level.
        center_radius: radius of center sampling in strides; None takes every point inside the box.

    Returns:
        ``[N]`` int64, the index of the object or -1.

    Raises:
        ValueError: when the levels do not cover the points or have no range each.
    """
    if sum(points_per_level) != len(points) or len(points_per_level) != len(level_ranges):
        raise ValueError(
            f"{len(points)} points and {len(level_ranges)} ranges do not fit levels of {list(points_per_level)} points"
        )
    if len(boxes) == 0:
        return points.new_full((len(points),), -1, dtype=torch.int64)
    ranges = torch.repeat_interleave(
        points.new_tensor(level_ranges), torch.tensor(points_per_level, device=points.device), dim=0
    )  # [N, 2]
    x, y = points.split(1, dim=1)  # [N, 1] each
    x1, y1, x2, y2 = boxes.unbind(dim=1)  # [M] each
    # Edge by edge rather than as [N, M, 4]: reductions over a last dimension of four are several times slower.
    left, top, right, bottom = x - x1, y - y1, x2 - x, y2 - y  # [N, M] each
    nearest = torch.minimum(torch.minimum(left, right), torch.minimum(top, bottom))
    extent = torch.maximum(torch.maximum(left, right), torch.maximum(top, bottom))
    candidate = (nearest > 0) & (extent >= ranges[:, :1]) & (extent <= ranges[:, 1:])
    if center_radius is not None:
        radius = center_radius * strides[:, None]  # [N, 1]
        candidate &= ((x - (x1 + x2) / 2).abs() < radius) & ((y - (y1 + y2) / 2).abs() < radius)
    area = (x2 - x1) * (y2 - y1)  # [M]
    smallest = torch.where(candidate, area, math.inf).argmin(dim=1)  # [N]
    return torch.where(candidate.any(dim=1), smallest, -1)
