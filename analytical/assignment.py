"""Which grid cells stand for an object, and which are background."""

import torch
from torch import Tensor

CELLS_A_SIDE = 4.0
"""An object belongs to the level on which its size (root of its area) is nearest to this many cells."""

RADIUS = 1.0
"""A cell stands for an object when the object's centre is at most this many strides from the cell's centre, along both
axes: four cells an object, on its own level only (fewer at the input's edge, up to nine for a centre on a cell's)."""


def assign_cells(points: Tensor, strides: Tensor, boxes: Tensor) -> Tensor:
    """The object each cell stands for.

    Args:
        points: ``[N, 2]`` centres of the cells of all levels, input pixels.
        strides: ``[N]`` their strides, the finest level first.
        boxes: ``[M, 4]`` xyxy, input pixels.

    Returns:
        ``[N]`` int64: index into ``boxes``, the smallest object where several compete; -1 for background.
    """
    if not len(boxes):
        return torch.full((len(points),), -1)
    sides = boxes[:, 2:] - boxes[:, :2]
    centers = (boxes[:, 2:] + boxes[:, :2]) / 2
    area = sides.prod(dim=1)  # [M]
    finest, coarsest = strides[0], strides[-1]
    level = (area.sqrt() / (CELLS_A_SIDE * finest)).log2().round().clamp(min=0)  # [M]
    own_stride = (finest * 2**level).clamp(max=coarsest)
    distance = (points[:, None] - centers).abs().amax(dim=2)  # [N, M]
    candidate = (strides[:, None] == own_stride) & (distance <= RADIUS * strides[:, None])
    smallest, index = torch.where(candidate, area, torch.inf).min(dim=1)  # [N]
    return torch.where(smallest.isfinite(), index, -1)
