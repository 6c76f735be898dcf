"""Features of a box: the map sampled on a grid over it, which keeps where in the box something is."""

import torch
import torch.nn.functional as F
from torch import Tensor

from detheads.analytical.anchors import sides_of

MARGIN = 1.5
"""The grid covers the box and a margin: this many times its sides."""


def region_features(features: Tensor, boxes: Tensor, grid: int, height: int, width: int) -> Tensor:
    """Bilinear samples at ``grid x grid`` points evenly spread over each box and its margin.

    Args:
        features: ``[B, C, h, w]``, a map of the input of ``height x width`` pixels; beyond its edges it goes on as
            it is there.
        boxes: ``[B, P, 4]`` xyxy, input pixels.

    Returns:
        ``[B, P, C * grid * grid]``.
    """
    steps = (torch.arange(grid, device=boxes.device) + 0.5) / grid - 0.5  # of a side, from the centre
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    offsets = torch.stack((x, y), dim=2).view(-1, 2) * MARGIN  # [G, 2]
    centers = (boxes[..., :2] + boxes[..., 2:]) / 2
    places = centers.unsqueeze(2) + sides_of(boxes).unsqueeze(2) * offsets  # [B, P, G, 2] input pixels
    extent = torch.tensor([width, height], dtype=boxes.dtype, device=boxes.device)
    sampled = F.grid_sample(features, places / extent * 2 - 1, padding_mode="border", align_corners=False)
    return sampled.permute(0, 2, 1, 3).flatten(2)  # [B, C, P, G] -> [B, P, C * G]


def geometry_features(boxes: Tensor, height: int, width: int) -> Tensor:
    """What a box's place and shape say of it, ``[B, P, 7]``: log sides, their products, and the centre."""
    extent = torch.tensor([width, height], dtype=boxes.dtype, device=boxes.device)
    w, h = (sides_of(boxes).clamp(min=1.0) / extent).log().unbind(dim=-1)
    x, y = ((boxes[..., :2] + boxes[..., 2:]) / 2 / extent - 0.5).unbind(dim=-1)
    return torch.stack((w, h, w * w, h * h, w * h, x, y), dim=-1)
