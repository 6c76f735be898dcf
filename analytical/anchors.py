"""Anchor shapes: quantile bins of object size times fixed aspect ratios, and boxes as offsets from them."""

import torch
from torch import Tensor

SCALE_BINS = 5
ASPECTS = (0.4, 1.0, 2.5)
"""Width over height. All three stay whatever the data are: people are mostly upright, but not all of them."""

ANCHORS = SCALE_BINS * len(ASPECTS)

MAX_SHIFT = 2.0
"""A predicted centre is at most this many anchor sides away from its cell."""
MAX_LOG_RATIO = 2.0
"""A predicted side is at most e^2 times its anchor's, or its e^2-th part."""


def fit_anchors(boxes: Tensor) -> Tensor:
    """Anchor shapes for the objects of a dataset.

    Args:
        boxes: ``[M, 4]`` xyxy, input pixels; ``M`` at least 1.

    Returns:
        ``[ANCHORS, 2]`` width and height in input pixels: the geometric mean size of each of the quantile bins (bins
        of objects, so each holds as many), at each aspect ratio.
    """
    if not len(boxes):
        raise ValueError("anchors are fitted to at least one box.")
    sizes = sides_of(boxes).prod(dim=1).sqrt().log().sort().values  # [M]
    bins = torch.tensor_split(sizes, SCALE_BINS)
    # Fewer objects than bins leave some of them empty; those take the mean of all.
    scales = torch.stack([(part if len(part) else sizes).mean().exp() for part in bins])  # [SCALE_BINS]
    roots = torch.tensor(ASPECTS).sqrt()
    shapes = torch.stack((scales[:, None] * roots, scales[:, None] / roots), dim=2)  # [SCALE_BINS, aspects, 2]
    return shapes.flatten(0, 1)


def nearest_anchor(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Index ``[M]`` of the anchor whose shape overlaps each box ``[M, 4]`` most, both centred on one point."""
    sides = sides_of(boxes)
    common = torch.minimum(sides[:, None], anchors).prod(dim=2)  # [M, ANCHORS]
    union = sides.prod(dim=1)[:, None] + anchors.prod(dim=1) - common
    return (common / union).argmax(dim=1)


def encode(boxes: Tensor, centers: Tensor, shapes: Tensor) -> Tensor:
    """Boxes ``[M, 4]`` as ``(dx, dy, dlog w, dlog h)`` from reference centres and shapes ``[M, 2]``."""
    shifts = ((boxes[:, :2] + boxes[:, 2:]) / 2 - centers) / shapes
    return torch.cat((shifts, (sides_of(boxes) / shapes).log()), dim=1)


def decode(offsets: Tensor, centers: Tensor, shapes: Tensor) -> Tensor:
    """The inverse of :func:`encode` for any leading axes, with bounded offsets: ``[..., 4]`` xyxy, input pixels."""
    middle = centers + offsets[..., :2].clamp(-MAX_SHIFT, MAX_SHIFT) * shapes
    half = shapes * offsets[..., 2:].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() / 2
    return torch.cat((middle - half, middle + half), dim=-1)


def sides_of(boxes: Tensor) -> Tensor:
    """Width and height ``[..., 2]`` of boxes ``[..., 4]``."""
    return boxes[..., 2:] - boxes[..., :2]
