"""Heatmaps against loops over objects and cells, and the radius against the displacements it allows."""

import itertools
import math

import pytest
import torch
from torchvision.ops import box_iou

from detheads.targets.heatmap import gaussian_radius, grid_cells, heatmap_targets


@pytest.mark.parametrize("min_iou", [0.3, 0.7, 0.95])
@pytest.mark.parametrize(("width", "height"), [(10.0, 10.0), (40.0, 3.0), (0.5, 7.0)])
def test_the_radius_is_the_largest_displacement_that_keeps_the_iou(width: float, height: float, min_iou: float) -> None:
    box = torch.tensor([[20.0, 30.0, 20.0 + width, 30.0 + height]], dtype=torch.float64)
    radius = gaussian_radius(box[:, 2:] - box[:, :2], min_iou)  # [1]
    shares = torch.tensor([-1, -0.5, 0, 0.5, 1], dtype=torch.float64)
    moved = box + radius * torch.cartesian_prod(shares, shares, shares, shares)  # [625, 4]
    assert float(box_iou(moved, box).amin()) == pytest.approx(min_iou, abs=1e-9)


def test_a_box_without_area_has_no_radius() -> None:
    assert gaussian_radius(torch.tensor([[0.0, 0.0], [0.0, 9.0]]), 0.7).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("seed", range(4))
def test_heatmaps_equal_loops_over_objects_and_cells(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows, columns, classes = 7, 11, 3
    cells = torch.stack([torch.randint(size, (12,), generator=generator) for size in (columns, rows)], dim=1)
    radii = 4 * torch.rand(12, generator=generator) * torch.randint(2, (12,), generator=generator)
    labels = torch.randint(classes, (12,), generator=generator)
    found = heatmap_targets(cells, radii, labels, classes, rows, columns)
    assert found.shape == (classes, rows, columns)
    for label, row, column in itertools.product(range(classes), range(rows), range(columns)):
        expected = 0.0
        for (x, y), radius, own in zip(cells.tolist(), radii.tolist(), labels.tolist(), strict=True):
            if own == label:
                deviation = (2 * radius + 1) / 6
                distance = (x - column) ** 2 + (y - row) ** 2
                expected = max(expected, math.exp(-distance / (2 * deviation**2)))
        assert float(found[label, row, column]) == pytest.approx(expected, abs=1e-6)
    assert (found[labels, cells[:, 1], cells[:, 0]] == 1).all()


def test_no_object_leaves_the_maps_empty() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert not heatmap_targets(nothing.view(0, 2), torch.zeros(0), nothing, 2, 3, 4).any()


def test_cells_and_offsets_give_the_points_back() -> None:
    points = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([104.0, 56.0])
    cells, offsets = grid_cells(points, 8.0, 7, 13)
    torch.testing.assert_close((cells + offsets) * 8.0, points)
    assert cells.amin() >= 0 and (cells < torch.tensor([13, 7])).all() and (offsets < 1).all()


def test_points_on_the_rim_and_beyond_take_the_nearest_cell() -> None:
    cells, offsets = grid_cells(torch.tensor([[104.0, 56.0], [-3.0, 200.0]]), 8.0, 7, 13)
    assert cells.tolist() == [[12, 6], [0, 6]]
    assert offsets.tolist() == [[1.0, 1.0], [0.0, 1.0]]
