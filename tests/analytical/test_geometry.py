"""Anchors, assignment, box sampling and voting against loops, torchvision and their definitions."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, roi_align

from detheads.analytical.anchors import (
    ANCHORS,
    ASPECTS,
    MAX_LOG_RATIO,
    MAX_SHIFT,
    SCALE_BINS,
    decode,
    encode,
    fit_anchors,
    nearest_anchor,
    sides_of,
)
from detheads.analytical.assignment import CELLS_A_SIDE, assign_cells
from detheads.analytical.first_stage import neighbourhood
from detheads.analytical.refinement import MARGIN, geometry_features, region_features, vote
from detheads.ops.points import grid_points

HEIGHT, WIDTH, STRIDE, LEVELS = 96, 160, 16, 4


def _random_boxes(count: int, seed: int = 0, low: float = 3.0, high: float = 90.0) -> Tensor:
    """Boxes of all sizes and shapes with their centres in the input."""
    generator = torch.Generator().manual_seed(seed)
    sides = low * (high / low) ** torch.rand(count, 2, generator=generator)
    centers = torch.rand(count, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT])
    return torch.cat((centers - sides / 2, centers + sides / 2), dim=1)


def _cells() -> tuple[Tensor, Tensor]:
    strides = [STRIDE * 2**level for level in range(LEVELS)]
    points = [grid_points(HEIGHT, WIDTH, stride) for stride in strides]
    owners = [torch.full((len(level),), stride) for level, stride in zip(points, strides, strict=True)]
    return torch.cat(points), torch.cat(owners)


# Anchors


@pytest.mark.parametrize("count", [5, 6, 23, 400])
def test_each_scale_bin_holds_as_many_objects_and_its_anchors_their_mean_size(count: int) -> None:
    boxes = _random_boxes(count, seed=count)
    anchors = fit_anchors(boxes).view(SCALE_BINS, len(ASPECTS), 2)
    ordered = sorted(math.sqrt((x2 - x1) * (y2 - y1)) for x1, y1, x2, y2 in boxes.tolist())
    bounds = [0]
    for scale in anchors[:, 0].prod(dim=1).sqrt().tolist():
        start = bounds[-1]
        bounds.append(  # the end of the run of objects whose geometric mean the scale is
            next(
                end
                for end in range(start + 1, count + 1)
                if math.isclose(math.prod(ordered[start:end]) ** (1 / (end - start)), scale, rel_tol=1e-4)
            )
        )
    held = [end - start for start, end in pairwise(bounds)]
    assert bounds[-1] == count
    assert max(held) - min(held) <= 1


def test_anchors_have_the_promised_aspects_at_equal_area() -> None:
    anchors = fit_anchors(_random_boxes(50))
    assert anchors.shape == (ANCHORS, 2) == (15, 2)
    shapes = anchors.view(SCALE_BINS, len(ASPECTS), 2)
    wanted = torch.tensor([0.4, 1.0, 2.5]).expand(SCALE_BINS, -1)
    torch.testing.assert_close(shapes[..., 0] / shapes[..., 1], wanted)
    areas = shapes.prod(dim=2)
    torch.testing.assert_close(areas, areas[:, :1].expand(-1, 3))
    assert (areas[1:, 0] > areas[:-1, 0]).all()


@pytest.mark.parametrize("count", [1, 3])
def test_fewer_objects_than_bins_still_give_all_anchors(count: int) -> None:
    boxes = _random_boxes(count, seed=4)
    scales = fit_anchors(boxes).view(SCALE_BINS, len(ASPECTS), 2)[:, 0].prod(dim=1).sqrt()
    sizes = sides_of(boxes).prod(dim=1).sqrt().sort().values
    torch.testing.assert_close(scales[:count], sizes)
    torch.testing.assert_close(scales[count:], sizes.log().mean().exp().expand(SCALE_BINS - count))


def test_anchors_of_no_object_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one box"):
        fit_anchors(torch.zeros(0, 4))


def test_the_nearest_anchor_is_that_of_greatest_overlap_around_one_centre() -> None:
    boxes, anchors = _random_boxes(300), fit_anchors(_random_boxes(40, seed=9))
    found = nearest_anchor(boxes, anchors)
    for box, anchor in zip(boxes, found.tolist(), strict=True):
        middle = (box[:2] + box[2:]) / 2
        around = torch.cat((middle - anchors / 2, middle + anchors / 2), dim=1)
        overlap = box_iou(box[None], around)[0]
        assert overlap[anchor] == pytest.approx(float(overlap.max()), abs=1e-5)
    assert found.unique().numel() == ANCHORS


def test_every_anchor_is_its_own_nearest() -> None:
    anchors = fit_anchors(_random_boxes(40, seed=9))
    boxes = torch.cat((50 - anchors / 2, 50 + anchors / 2), dim=1)
    assert nearest_anchor(boxes, anchors).tolist() == list(range(ANCHORS))


def test_decode_is_the_inverse_of_encode_within_its_bounds() -> None:
    shapes = fit_anchors(_random_boxes(40, seed=9))
    boxes = _random_boxes(300, low=20, high=90)
    nearest = shapes[nearest_anchor(boxes, shapes)]
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2 + torch.linspace(-15, 15, 300)[:, None]
    offsets = encode(boxes, centers, nearest)
    kept = (offsets[:, :2].abs() < MAX_SHIFT).all(dim=1) & (offsets[:, 2:].abs() < MAX_LOG_RATIO).all(dim=1)
    assert kept.sum() > 250
    torch.testing.assert_close(decode(offsets, centers, nearest)[kept], boxes[kept], atol=1e-3, rtol=1e-5)


def test_offsets_are_shifts_in_anchor_sides_and_logarithms_of_side_ratios() -> None:
    box, center, shape = torch.tensor([[10.0, 20, 50, 40]]), torch.tensor([[20.0, 35]]), torch.tensor([[20.0, 10]])
    torch.testing.assert_close(encode(box, center, shape), torch.tensor([[0.5, -0.5, math.log(2), math.log(2)]]))


@pytest.mark.parametrize("value", [-1e30, -50.0, 50.0, 1e30, float("inf")])
def test_offsets_of_any_size_give_finite_boxes_the_right_way_round(value: float) -> None:
    boxes = decode(torch.full((3, 4), value), torch.full((3, 2), 40.0), torch.full((3, 2), 16.0))
    assert torch.isfinite(boxes).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


# Assignment


def _assigned_by_loop(points: Tensor, strides: Tensor, boxes: Tensor) -> list[int]:
    """For each cell the smallest object of its level whose centre is at most a stride away along both axes."""
    result = []
    for (x, y), stride in zip(points.tolist(), strides.tolist(), strict=True):
        owner, smallest = -1, math.inf
        for index, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            area = (x2 - x1) * (y2 - y1)
            ideal = math.sqrt(area) / CELLS_A_SIDE  # the stride at which the object is four cells wide
            level = min(range(LEVELS), key=lambda at, ideal=ideal: abs(math.log2(STRIDE * 2**at / ideal)))
            near = max(abs((x1 + x2) / 2 - x), abs((y1 + y2) / 2 - y)) <= stride
            if STRIDE * 2**level == stride and near and area < smallest:
                owner, smallest = index, area
        result.append(owner)
    return result


BOXES: dict[str, Callable[[], Tensor]] = {
    "many": lambda: _random_boxes(60),
    "crowded": lambda: _random_boxes(300, seed=1),
    "few": lambda: _random_boxes(3, seed=2),
    "none": lambda: torch.zeros(0, 4),
    "tiny": lambda: _random_boxes(10, low=0.5, high=2),
    "large": lambda: _random_boxes(10, low=100, high=900),
    "whole image": lambda: torch.tensor([[0.0, 0, WIDTH, HEIGHT]]),
    "whole image and a part": lambda: torch.tensor([[0.0, 0, WIDTH, HEIGHT], [10.0, 10, 120, 90]]),
    "centred on a cell": lambda: torch.tensor([[20.0, 20, 28, 28]]),
}


@pytest.mark.parametrize("name", BOXES)
def test_assignment_equals_a_loop(name: str) -> None:
    points, strides = _cells()
    boxes = BOXES[name]()
    found = assign_cells(points, strides, boxes)
    assert found.dtype == torch.int64
    assert found.tolist() == _assigned_by_loop(points, strides, boxes)
    assert (found >= 0).any() == (len(boxes) > 0)


def test_every_object_alone_has_cells_and_only_on_one_level() -> None:
    points, strides = _cells()
    for box in _random_boxes(100, seed=5, high=200):
        own = strides[assign_cells(points, strides, box[None]) == 0]
        assert 1 <= len(own) <= 4
        assert own.unique().numel() == 1


# Regions


@pytest.mark.parametrize("grid", [1, 2, 5])
def test_region_features_equal_roi_align_where_all_samples_lie_inside(grid: int) -> None:
    generator = torch.Generator().manual_seed(grid)
    features = torch.randn(3, 4, HEIGHT // 8, WIDTH // 8, generator=generator)
    centers = torch.tensor([WIDTH, HEIGHT]) * (0.4 + 0.2 * torch.rand(3, 20, 2, generator=generator))
    sides = 4 + 36 * torch.rand(3, 20, 2, generator=generator)
    boxes = torch.cat((centers - sides / 2, centers + sides / 2), dim=2)
    larger = torch.cat((centers - MARGIN * sides / 2, centers + MARGIN * sides / 2), dim=2)
    wanted = roi_align(features, list(larger), grid, spatial_scale=1 / 8, sampling_ratio=1, aligned=True)
    found = region_features(features, boxes, grid, HEIGHT, WIDTH)
    torch.testing.assert_close(found, wanted.flatten(1).view(3, 20, -1), atol=1e-4, rtol=1e-4)


def test_beyond_its_edges_a_map_goes_on_as_it_is_there() -> None:
    columns = torch.arange(WIDTH // 8).float().expand(1, 1, HEIGHT // 8, -1)
    far_left, far_right = [-200.0, 20, -100, 60], [WIDTH + 100.0, 20, WIDTH + 200, 60]
    found = region_features(columns, torch.tensor([[far_left, far_right]]), 3, HEIGHT, WIDTH)
    torch.testing.assert_close(found, torch.tensor([[[0.0] * 9, [WIDTH / 8 - 1] * 9]]))


def test_geometry_features_are_those_of_a_box_by_hand() -> None:
    box = torch.tensor([[[20.0, 10, 60, 58]]])
    w, h = math.log(40 / WIDTH), math.log(48 / HEIGHT)
    wanted = [w, h, w * w, h * h, w * h, 40 / WIDTH - 0.5, 34 / HEIGHT - 0.5]
    torch.testing.assert_close(geometry_features(box, HEIGHT, WIDTH), torch.tensor([[wanted]]))


def test_neighbourhood_holds_the_nearest_existing_cells_in_reading_order() -> None:
    features = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    found = neighbourhood(features).unflatten(1, (9, 3))
    for row in range(4):
        for column in range(5):
            for index in range(9):
                y, x = row + index // 3 - 1, column + index % 3 - 1
                wanted = features[:, :, min(max(y, 0), 3), min(max(x, 0), 4)]
                assert torch.equal(found[:, index, :, row, column], wanted)


# Voting


@pytest.mark.parametrize("iou", [0.3, 0.7, 1.0])
def test_voting_equals_a_loop(iou: float) -> None:
    boxes = torch.stack([_random_boxes(40, seed=seed, low=30) for seed in (7, 8)])
    boxes[:, 20:] = boxes[:, :20] + torch.linspace(0, 8, 20)[:, None]  # some overlap much
    scores = torch.rand(2, 40, generator=torch.Generator().manual_seed(2))
    found = vote(boxes, scores, iou)
    moved = 0
    for image in range(2):
        overlap = box_iou(boxes[image], boxes[image])
        for index in range(40):
            voters = [other for other in range(40) if other == index or overlap[index, other] >= iou]
            total = sum(float(scores[image, other]) for other in voters)
            wanted = sum(boxes[image, other] * float(scores[image, other]) for other in voters) / total
            torch.testing.assert_close(found[image, index], wanted, atol=1e-3, rtol=1e-5)
            moved += len(voters) > 1
    assert moved > 10 or iou == 1.0
