"""Points of feature grids, and boxes seen from them."""

from collections.abc import Sequence

import torch
from torch import Tensor


def grid_points(height: int, width: int, stride: float) -> Tensor:
    """Centres of the cells of one level, row by row: ``[rows * columns, 2]`` (x, y), input pixels.

    Args:
        height, width: of the input, pixels; a last cell that is cut off counts as one.
        stride: side of a cell, input pixels.
    """
    y, x = torch.meshgrid(
        torch.arange(_cells(height, stride)) + 0.5, torch.arange(_cells(width, stride)) + 0.5, indexing="ij"
    )
    return torch.stack((x, y), dim=2).view(-1, 2) * stride


def flatten_levels(levels: Sequence[Tensor]) -> Tensor:
    """``[B, C, H, W]`` a level -> float32 ``[B, N, C]``, level after level, in the order of :func:`grid_points`."""
    return torch.cat([level.float().flatten(2).transpose(1, 2) for level in levels], dim=1)


def ltrb_to_boxes(points: Tensor, ltrb: Tensor) -> Tensor:
    """Boxes from the distances of points to their left, top, right and bottom edge.

    The inverse of :func:`detheads.targets.assignment.ltrb_targets`.

    Args:
        points: ``[..., N, 2]`` xy, input pixels.
        ltrb: ``[..., N, 4]``, input pixels, to whose leading dimensions the points broadcast.

    Returns:
        ``[..., N, 4]`` xyxy, input pixels.
    """
    return torch.cat((points - ltrb[..., :2], points + ltrb[..., 2:]), dim=-1)


def _cells(pixels: int, stride: float) -> int:
    return int(-(-pixels // stride))
