import statistics

import pytest
import torch
from torch import Tensor

from detheads.targets.atss import assign_atss
from tests.targets.scenes import EDGE_CASES, grid, random_boxes

STRIDES = [8.0, 16.0, 32.0, 64.0, 128.0]


def iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def reference(points: Tensor, counts: list[int], strides: Tensor, boxes: Tensor, top_k: int, scale: float) -> list[int]:
    """Algorithm 1 of the paper, object by object."""
    positions, sides = points.tolist(), [scale * stride for stride in strides.tolist()]
    matched, claimed = [-1] * len(points), [-1.0] * len(points)
    for index, box in enumerate(boxes.tolist()):
        center = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        candidates: list[int] = []
        start = 0
        for count in counts:
            level = range(start, start + count)
            distance = {n: (positions[n][0] - center[0]) ** 2 + (positions[n][1] - center[1]) ** 2 for n in level}
            candidates += sorted(level, key=lambda n: distance[n])[:top_k]
            start += count
        overlaps = {}
        for n in candidates:
            (x, y), half = positions[n], sides[n] / 2
            overlaps[n] = iou([x - half, y - half, x + half, y + half], box)
        deviation = statistics.stdev(overlaps.values()) if len(overlaps) > 1 else 0.0
        threshold = statistics.fmean(overlaps.values()) + deviation
        for n, overlap in overlaps.items():
            x, y = positions[n]
            inside = box[0] < x < box[2] and box[1] < y < box[3]
            if inside and overlap >= threshold and overlap > claimed[n]:
                matched[n], claimed[n] = index, overlap
    return matched


@pytest.mark.parametrize("name", EDGE_CASES)
def test_edge_cases_equal_the_brute_force_reference(name: str) -> None:
    points, counts, strides = grid(STRIDES)
    boxes = torch.tensor(EDGE_CASES[name], dtype=torch.float32).reshape(-1, 4)
    matched = assign_atss(points, counts, strides, boxes)
    assert matched.dtype == torch.int64
    assert matched.tolist() == reference(points, counts, strides, boxes, 9, 8.0)


@pytest.mark.parametrize(("top_k", "scale"), [(9, 8.0), (3, 4.0), (1, 8.0)])
@pytest.mark.parametrize("seed", range(8))
def test_random_scenes_equal_the_brute_force_reference(seed: int, top_k: int, scale: float) -> None:
    points, counts, strides = grid([8.0, 16.0, 37.25, 96.0])
    boxes = random_boxes(25, seed)
    boxes = (boxes * 4).round() / 4  # centres exact in float32: the float64 reference sees the same ties
    matched = assign_atss(points, counts, strides, boxes, top_k=top_k, anchor_scale=scale)
    assert (matched >= 0).any()
    assert matched.tolist() == reference(points, counts, strides, boxes, top_k, scale)


def test_one_point_in_all_is_its_own_threshold() -> None:
    points, strides = torch.tensor([[64.0, 64.0]]), torch.tensor([128.0])
    boxes = torch.tensor([[0.0, 0.0, 128.0, 128.0], [65.0, 0.0, 128.0, 128.0]])
    assert assign_atss(points, [1], strides, boxes).tolist() == [0]


def test_a_level_with_fewer_points_than_top_k_gives_them_all() -> None:
    points, counts, strides = grid([64.0, 128.0, 256.0])
    assert min(counts) < 9
    boxes = torch.tensor([[30.0, 30.0, 200.0, 170.0]])
    assert assign_atss(points, counts, strides, boxes).tolist() == reference(points, counts, strides, boxes, 9, 8.0)


def test_of_objects_with_equal_overlap_the_first_takes_the_point() -> None:
    points, counts, strides = grid(STRIDES)
    matched = assign_atss(points, counts, strides, torch.tensor([[40.0, 40.0, 120.0, 120.0]] * 3))
    assert set(matched.tolist()) == {-1, 0}


def test_levels_that_do_not_cover_the_points_are_refused() -> None:
    points, counts, strides = grid(STRIDES)
    with pytest.raises(ValueError, match="do not fit"):
        assign_atss(points, counts[:-1], strides, torch.zeros(1, 4))
