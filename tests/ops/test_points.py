"""Points of grids, and boxes seen from them."""

import pytest
import torch

from detheads.ops.points import flatten_levels, grid_points, ltrb_to_boxes
from detheads.targets.assignment import ltrb_targets


def test_points_are_the_centres_of_the_cells_row_by_row() -> None:
    assert grid_points(32, 48, 16).tolist() == [[8, 8], [24, 8], [40, 8], [8, 24], [24, 24], [40, 24]]


@pytest.mark.parametrize(("height", "width", "rows", "columns"), [(33, 48, 3, 3), (17, 1, 2, 1), (16, 31, 1, 2)])
def test_a_last_cell_that_is_cut_off_has_a_point_too(height: int, width: int, rows: int, columns: int) -> None:
    points = grid_points(height, width, 16)
    assert points[:, 1].unique().tolist() == [16 * row + 8 for row in range(rows)]
    assert points[:, 0].unique().tolist() == [16 * column + 8 for column in range(columns)]


def test_values_of_a_level_lie_in_the_order_of_its_points() -> None:
    points = grid_points(32, 48, 16)
    x, y = torch.meshgrid(torch.tensor([8.0, 24, 40]), torch.tensor([8.0, 24]), indexing="xy")
    level = torch.stack((x, y))[None].half()  # [1, 2, H, W]: every cell says where it is
    flat = flatten_levels([level, level])
    assert flat.dtype == torch.float32
    assert torch.equal(flat, torch.cat((points, points))[None])


def test_boxes_from_distances_are_those_that_the_distances_were_taken_from() -> None:
    generator = torch.Generator().manual_seed(0)
    points = grid_points(64, 96, 8)
    boxes = torch.rand(3, len(points), 4, generator=generator) * 200 - 50  # outside their points and inside out, too
    torch.testing.assert_close(ltrb_to_boxes(points, ltrb_targets(points.expand(3, -1, -1), boxes)), boxes)


def test_known_distances_give_a_known_box() -> None:
    assert ltrb_to_boxes(torch.tensor([[10.0, 20.0]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]])).tolist() == [
        [9.0, 18.0, 13.0, 24.0]
    ]
