import math

import pytest
import torch
from torch import Tensor

from detheads.targets.fcos import assign_fcos
from tests.targets.scenes import EDGE_CASES, grid, random_boxes

STRIDES = [8.0, 16.0, 32.0, 64.0, 128.0]
LEVEL_RANGES = [(0.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, math.inf)]
"""Of the paper's five levels P3 to P7, input pixels."""


def reference(
    points: Tensor,
    counts: list[int],
    strides: Tensor,
    boxes: Tensor,
    ranges: list[tuple[float, float]],
    radius: float | None,
) -> list[int]:
    levels = [level for level, count in enumerate(counts) for _ in range(count)]
    matched = []
    for (x, y), stride, level in zip(points.tolist(), strides.tolist(), levels, strict=True):
        best, smallest = -1, math.inf
        for index, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            inside = x1 < x < x2 and y1 < y < y2
            central = radius is None or (
                abs(x - (x1 + x2) / 2) < radius * stride and abs(y - (y1 + y2) / 2) < radius * stride
            )
            low, high = ranges[level]
            in_range = low <= max(x - x1, y - y1, x2 - x, y2 - y) <= high
            area = (x2 - x1) * (y2 - y1)
            if inside and central and in_range and area < smallest:
                best, smallest = index, area
        matched.append(best)
    return matched


@pytest.mark.parametrize("radius", [None, 1.5])
@pytest.mark.parametrize("name", EDGE_CASES)
def test_edge_cases_equal_the_brute_force_reference(name: str, radius: float | None) -> None:
    points, counts, strides = grid(STRIDES)
    boxes = torch.tensor(EDGE_CASES[name], dtype=torch.float32).reshape(-1, 4)
    matched = assign_fcos(points, counts, strides, boxes, level_ranges=LEVEL_RANGES, center_radius=radius)
    assert matched.dtype == torch.int64
    assert matched.tolist() == reference(points, counts, strides, boxes, LEVEL_RANGES, radius)


@pytest.mark.parametrize("radius", [None, 1.5])
@pytest.mark.parametrize("seed", range(6))
def test_random_scenes_equal_the_brute_force_reference(seed: int, radius: float | None) -> None:
    ranges = [(0.0, 30.0), (30.0, 60.0), (60.0, math.inf)]
    points, counts, strides = grid([8.0, 16.0, 37.3])
    boxes = random_boxes(12, seed)
    # Quarter pixels are exact in float32, so that the reference's float64 decides alike on every border.
    points, boxes = (points * 4).round() / 4, (boxes * 4).round() / 4
    matched = assign_fcos(points, counts, strides, boxes, level_ranges=ranges, center_radius=radius)
    assert (matched >= 0).any()
    assert matched.tolist() == reference(points, counts, strides, boxes, ranges, radius)


@pytest.mark.parametrize("border", [64.0, 128.0, 256.0, 512.0])
def test_levels_change_hands_at_the_borders_of_their_ranges(border: float) -> None:
    """One point a level, all at the centre of the box; on the border itself both levels take it."""
    upper = [64.0, 128.0, 256.0, 512.0].index(border) + 1
    points, strides = torch.full((5, 2), 1000.0), torch.tensor(STRIDES)
    for extent, levels in ((border - 0.5, [upper - 1]), (border, [upper - 1, upper]), (border + 0.5, [upper])):
        box = torch.tensor([[1000 - extent, 1000 - extent, 1000 + extent, 1000 + extent]])
        matched = assign_fcos(points, [1] * 5, strides, box, level_ranges=LEVEL_RANGES)
        assert torch.nonzero(matched == 0).flatten().tolist() == levels


def test_levels_that_do_not_cover_the_points_are_refused() -> None:
    points, counts, strides = grid(STRIDES)
    with pytest.raises(ValueError, match="do not fit"):
        assign_fcos(points, counts, strides, torch.zeros(1, 4), level_ranges=LEVEL_RANGES[:-1])
    with pytest.raises(ValueError, match="do not fit"):
        assign_fcos(points, counts[:-1], strides, torch.zeros(0, 4), level_ranges=LEVEL_RANGES)
