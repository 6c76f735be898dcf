"""Adaptive training sample selection: the IoU threshold of an object follows from its own candidates."""

from collections.abc import Sequence

import torch
from torch import Tensor

from detheads.targets.assignment import MOST_PAIRS, ltrb_targets


def assign_atss(
    points: Tensor,
    points_per_level: Sequence[int],
    strides: Tensor,
    boxes: Tensor,
    *,
    top_k: int = 9,
    anchor_scale: float = 8.0,
) -> Tensor:
    """:func:`assign_atss_batch` for the objects ``[M, 4]`` of one image: ``[N]``."""
    images = torch.zeros_like(boxes[:, 0], dtype=torch.int64)
    return assign_atss_batch(
        points, points_per_level, strides, boxes, images, 1, top_k=top_k, anchor_scale=anchor_scale
    )[0]


def assign_atss_batch(
    points: Tensor,
    points_per_level: Sequence[int],
    strides: Tensor,
    boxes: Tensor,
    images: Tensor,
    count: int,
    *,
    top_k: int = 9,
    anchor_scale: float = 8.0,
) -> Tensor:
    """Assign points to objects as Zhang et al. 2020, "Bridging the Gap Between Anchor-based and Anchor-free
    Detection via Adaptive Training Sample Selection", algorithm 1.

    Every point carries one square anchor. The candidates of an object are the ``top_k`` points of each level whose
    centres are closest to the box's; its IoU threshold is the mean plus the standard deviation of the candidates'
    IoUs, the sample deviation (``Tensor.std``, divisor ``n - 1``) as in the authors' code, github.com/sfzhang15/ATSS,
    ``atss_core/modeling/rpn/atss/loss.py``. Candidates at or above the threshold and strictly inside the box are
    positive; a point positive for several objects takes the one of the highest IoU.

    Ties are settled alike everywhere: of equally distant points the first is the candidate, of objects with equal
    IoU the first takes the point.

    Args:
        points: ``[N, 2]`` xy in input pixels, level after level.
        points_per_level: number of points of each level (a level may have fewer than ``top_k``); sums to ``N``.
        strides: ``[N]`` stride of each point in input pixels.
        boxes: ``[T, 4]`` float32 xyxy in input pixels, the objects of all images; ``T`` may be 0.
        images: ``[T]`` int64, the image of each object.
        count: number of images ``B``.
        top_k: candidates a level.
        anchor_scale: side of the anchors in strides.

    Returns:
        ``[B, N]`` int64, the index of the object among the ``T``, or -1.

    Raises:
        ValueError: when the levels do not cover the points.
    """
    if sum(points_per_level) != len(points):
        raise ValueError(f"{len(points)} points do not fit levels of {list(points_per_level)} points")
    total, nothing = len(boxes), images.new_full((count, len(points)), -1)
    if total == 0 or len(points) == 0:
        return nothing

    parts = boxes.split(max(1, MOST_PAIRS // len(points)))
    candidates = torch.cat([_closest_points(points, points_per_level, part, top_k) for part in parts])  # [T, C]
    centers = points[candidates]  # [T, C, 2]
    iou = _anchor_iou(centers, anchor_scale * strides[candidates], boxes)  # [T, C]
    # One candidate has no sample deviation; it is its own threshold.
    deviation = iou.std(dim=1, keepdim=True) if iou.shape[1] > 1 else torch.zeros_like(iou)
    inside = ltrb_targets(centers, boxes[:, None].expand(-1, centers.shape[1], -1)).amin(dim=2) > 0  # [T, C]
    positive = inside & (iou >= iou.mean(dim=1, keepdim=True) + deviation)

    # All candidates take part, the others than the positive ones without effect: picking those out would have a
    # device tell how many there are.
    targets = images[:, None] * len(points) + candidates  # [T, C], in the points of all images
    overlaps = torch.where(positive, iou, -1.0)
    best = iou.new_full((count * len(points),), -1.0)
    best = best.scatter_reduce(0, targets.flatten(), overlaps.flatten(), "amax")  # [B * N]
    objects = torch.arange(total, device=images.device)[:, None]  # [T, 1]
    winners = torch.where(positive & (overlaps == best[targets]), objects, total)  # [T, C]
    first = images.new_full((count * len(points),), total)
    first = first.scatter_reduce(0, targets.flatten(), winners.flatten(), "amin").view_as(nothing)  # [B, N]
    return torch.where(first < total, first, nothing)


def _closest_points(points: Tensor, points_per_level: Sequence[int], boxes: Tensor, top_k: int) -> Tensor:
    """Indices ``[T, C]`` of the ``top_k`` points of each level closest to the centre of each box."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2  # [T, 2]
    # Distance and index in one integer: non-negative float32 values order as their bits do, so that equal distances
    # (frequent on a grid) fall to the lower index, which topk alone does not promise.
    distance = (points[:, 0] - centers[:, :1]).square() + (points[:, 1] - centers[:, 1:]).square()  # [T, N]
    keys = distance.float().view(torch.int32).to(torch.int64).bitwise_left_shift(32)
    keys |= torch.arange(len(points), device=points.device)
    chosen = [
        level.topk(min(top_k, level.shape[1]), dim=1, largest=False).values
        for level in keys.split(list(points_per_level), dim=1)
    ]
    return torch.cat(chosen, dim=1).bitwise_and((1 << 32) - 1)


def _anchor_iou(centers: Tensor, sides: Tensor, boxes: Tensor) -> Tensor:
    """IoU ``[T, C]`` of squares (``centers`` ``[T, C, 2]``, ``sides`` ``[T, C]``) with each row's own box."""
    half = sides[..., None] / 2  # [T, C, 1]
    low = torch.maximum(centers - half, boxes[:, None, :2])  # [T, C, 2]
    high = torch.minimum(centers + half, boxes[:, None, 2:])
    intersection = (high - low).clamp(min=0).prod(dim=2)  # [T, C]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)[:, None]  # [T, 1]
    return intersection / (sides.square() + area - intersection)
