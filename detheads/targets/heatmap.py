"""Gaussian heatmaps: what heads that find objects as peaks of a map have to learn."""

from collections.abc import Sequence

import torch
from torch import Tensor

from detheads.targets.objects import TargetBatch


def gaussian_radius(sizes: Tensor, min_iou: float) -> Tensor:
    """How far both corners of a box may be off while its IoU stays at least ``min_iou``.

    Law & Deng 2018, "CornerNet", section 3.2. Of all displacements by up to ``r`` along each axis, both corners
    moving inwards costs most, so that ``(w - 2r)(h - 2r) = min_iou * w * h`` decides alone.

    Args:
        sizes: ``[M, 2]`` width and height, any unit.
        min_iou: in ``(0, 1]``.

    Returns:
        ``[M]`` in the unit of the sizes.
    """
    total, area = sizes.sum(dim=1), sizes.prod(dim=1)
    return (total - (total.square() - 4 * (1 - min_iou) * area).clamp(min=0).sqrt()) / 4


def grid_cells(points: Tensor, stride: float, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """The cell of each point and where in it the point lies; points outside the grid take the nearest cell.

    Args:
        points: ``[M, 2]`` xy, input pixels.
        stride: side of a cell, input pixels.

    Returns:
        Cells ``[M, 2]`` int64 (column, row), and offsets ``[M, 2]`` in ``[0, 1]`` from the cell's top-left corner.
    """
    scaled = points / stride
    column, row = scaled.floor().to(torch.int64).unbind(dim=1)
    cells = torch.stack((column.clamp(0, columns - 1), row.clamp(0, rows - 1)), dim=1)
    return cells, (scaled - cells).clamp(0, 1)


def heatmaps_of(targets: TargetBatch, cells: Tensor, radii: Tensor, shape: Sequence[int]) -> Tensor:
    """:func:`heatmap_targets` of a batch, ``shape`` ``[B, K, rows, columns]``; cells and radii of all its objects."""
    images, classes, rows, columns = shape
    maps = heatmap_targets(cells, radii, targets.images * classes + targets.labels, images * classes, rows, columns)
    return maps.unflatten(0, (images, classes))


def heatmap_targets(cells: Tensor, radii: Tensor, labels: Tensor, num_classes: int, rows: int, columns: int) -> Tensor:
    """A map a class: 1 at the cells of its objects, falling off as Gaussians, the highest where they overlap.

    Args:
        cells: ``[M, 2]`` int64 (column, row); ``M`` may be 0.
        radii: ``[M]`` in cells, three standard deviations (and half a cell, as in Zhou et al. 2019, "Objects as
            Points").
        labels: ``[M]`` int64.

    Returns:
        ``[num_classes, rows, columns]`` in ``[0, 1]``.
    """
    deviation = (2 * radii + 1) / 6  # [M]
    column, row = cells.unbind(dim=1)
    x = torch.arange(columns, device=cells.device) - column[:, None]  # [M, columns]
    y = torch.arange(rows, device=cells.device) - row[:, None]  # [M, rows]
    squared = y.square()[:, :, None] + x.square()[:, None, :]  # [M, rows, columns]
    values = (-squared / (2 * deviation.square())[:, None, None]).exp()
    maps = values.new_zeros(num_classes, rows, columns)
    return maps.scatter_reduce(0, labels[:, None, None].expand_as(values), values, "amax")
