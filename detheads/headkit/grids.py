"""Heads whose candidates lie on grids: where the cells of each level are."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detheads.ops.points import grid_points


class OnGrids(nn.Module):
    """Mixin that keeps the points of several grids as buffers, which move with the head and are no weights.

    Attributes:
        points: ``[N, 2]`` centres of the cells (x, y), input pixels, level after level.
        strides: ``[N]`` side of the cell around each point, input pixels.
        level_strides: stride of each level, input pixels.
        points_per_level: number of points of each level.
    """

    points: Tensor
    strides: Tensor
    level_strides: tuple[float, ...]
    points_per_level: list[int]

    def lay_grids(self, height: int, width: int, strides: Sequence[float]) -> None:
        """Set the attributes for an input of ``height`` x ``width`` pixels; call it in ``__init__``."""
        points = [grid_points(height, width, stride) for stride in strides]
        counts = [len(level) for level in points]
        self.level_strides, self.points_per_level = tuple(strides), counts
        each = torch.repeat_interleave(torch.tensor(strides, dtype=torch.float32), torch.tensor(counts))
        self.register_buffer("points", torch.cat(points), persistent=False)
        self.register_buffer("strides", each, persistent=False)
