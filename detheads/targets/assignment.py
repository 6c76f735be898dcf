"""Which object each point of an image learns, and the regression targets that follow from it."""

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_PAIRS = 2**22
"""Pairs of an object and a point that are looked at together, 17 MB a number each: what a crowded batch takes in memory
is bounded, and sixteen pictures of COCO at 768 px (1.4 million pairs) are one piece."""


@dataclass(frozen=True)
class Assignment:
    """The assignment of one image: ``matched`` ``[N]`` int64, the index of the point's object, -1 for background."""

    matched: Tensor

    @property
    def positive(self) -> Tensor:
        """Indices of the points that have an object, ``[P]`` int64, ascending."""
        return torch.nonzero(self.matched >= 0).squeeze(1)

    @property
    def objects(self) -> Tensor:
        """Index of the object of each positive point, ``[P]`` int64, in the order of ``positive``."""
        return self.matched[self.positive]


def ltrb_targets(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances from each point to the left, top, right and bottom edge of its box (FCOS, eq. 1).

    Args:
        points: ``[N, 2]`` xy in input pixels.
        boxes: ``[N, 4]`` xyxy in input pixels, one for each point (or broadcastable: ``[N, 1, 2]`` with ``[M, 4]``
            gives ``[N, M, 4]``).

    Returns:
        ``[N, 4]`` in input pixels; all positive exactly for a point strictly inside its box.
    """
    return torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), dim=-1)


def centerness_targets(ltrb: Tensor) -> Tensor:
    """``sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))`` (FCOS, eq. 3).

    Args:
        ltrb: ``[N, 4]`` distances of points strictly inside their boxes.

    Returns:
        ``[N]`` in ``(0, 1]``; 1 at the centre of the box.
    """
    near = torch.minimum(ltrb[:, :2], ltrb[:, 2:])  # [N, 2]
    far = torch.maximum(ltrb[:, :2], ltrb[:, 2:])
    return (near / far).prod(dim=1).sqrt()
