"""Curvature by central differences against surfaces of known curvature, and boxes read along rays."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from detheads.headkit import registry
from detheads.heads.curvature import REACH, WALL, CurvatureHead, curvature, free_paths
from tests.heads.worlds import SPECS, random_features

RADIUS = 300.0
Y, X = torch.meshgrid(
    torch.arange(-20.0, 26, dtype=torch.float64), torch.arange(-30.0, 20, dtype=torch.float64), indexing="ij"
)

PLANE = 0.3 * X - 0.7 * Y + 2
CAP = (RADIUS**2 - X**2 - Y**2).sqrt()
CYLINDER = (RADIUS**2 - (0.6 * X + 0.8 * Y) ** 2).sqrt()
SADDLE = X * Y / 400


def _inside(*channels: Tensor) -> list[Tensor]:
    """Curvature of a surface away from the border, where differences see the continued map."""
    return [values[0, 0, 1:-1, 1:-1] for values in curvature(torch.stack(channels)[None])]


def _at(values: Tensor) -> Tensor:
    return values[1:-1, 1:-1]


@pytest.mark.parametrize(
    ("surface", "gaussian", "mean"),
    [(PLANE, 0.0, 0.0), (CAP, RADIUS**-2, 1 / RADIUS), (CYLINDER, 0.0, 1 / (2 * RADIUS))],
    ids=["plane", "sphere", "cylinder"],
)
def test_surfaces_in_space_have_their_known_curvature(surface: Tensor, gaussian: float, mean: float) -> None:
    found, squared, _ = _inside(surface)
    torch.testing.assert_close(found, torch.full_like(found, gaussian), rtol=1e-3, atol=1e-3 * RADIUS**-2)
    torch.testing.assert_close(squared, torch.full_like(squared, mean**2), rtol=1e-3, atol=1e-15)


def test_a_saddle_is_negative_as_in_the_textbook() -> None:
    """z = x y / c: K = -1 / (c^2 (1 + (x^2 + y^2) / c^2)^2); central differences of a quadratic are exact."""
    found, _, area = _inside(SADDLE)
    slope = (X**2 + Y**2) / 400**2
    torch.testing.assert_close(found, _at(-1 / (400 * (1 + slope)) ** 2), rtol=1e-9, atol=0)
    torch.testing.assert_close(area, _at((1 + slope).sqrt()))


def test_the_graph_of_a_complex_square_is_a_minimal_surface_in_four_dimensions() -> None:
    """(z, a z^2): mean curvature 0 and K = -2 |h''|^2 / (1 + |h'|^2)^3 for the holomorphic h = a z^2."""
    a = 0.01
    found, squared, area = _inside(a * (X**2 - Y**2), 2 * a * X * Y)
    slope = (2 * a) ** 2 * (X**2 + Y**2)
    torch.testing.assert_close(found, _at(-2 * (2 * a) ** 2 / (1 + slope) ** 3), rtol=1e-9, atol=0)
    torch.testing.assert_close(area, _at(1 + slope))
    assert squared.max() < 1e-25


def test_a_product_of_two_bent_curves_is_flat_in_four_dimensions() -> None:
    """As a flat torus is: K = 0, although it bends, |H|^2 = (k_1^2 + k_2^2) / 4 with the curvatures of the curves."""
    found, squared, _ = _inside(0.02 * X**2 / 2, 0.05 * Y**2 / 2)
    first, second = (c / (1 + (c * t) ** 2) ** 1.5 for c, t in ((0.02, X), (0.05, Y)))
    torch.testing.assert_close(squared, _at((first**2 + second**2) / 4), rtol=1e-9, atol=0)
    assert found.abs().max() < 1e-18


@pytest.mark.parametrize("turn", [lambda f: f.mT, lambda f: f.flip(2), lambda f: f.flip(3)])
def test_curvature_turns_with_the_picture(turn: Callable[[Tensor], Tensor]) -> None:
    f = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    for plain, turned in zip(curvature(f), curvature(turn(f)), strict=True):
        torch.testing.assert_close(turned, turn(plain))


def test_curvature_does_not_depend_on_a_rotation_of_feature_space() -> None:
    f = torch.randn(2, 5, 6, 7, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    turned = torch.einsum("dc,bchw->bdhw", rotation, f)
    for first, second in zip(curvature(f), curvature(turned), strict=True):
        torch.testing.assert_close(first, second)


def _path(cells: list[float]) -> float:
    """How far a ray gets through cells of these densities one after another, walked cell by cell."""
    path, left = 0.5, 1.0
    for density in cells[: REACH - 1]:
        left *= math.exp(-density)
        path += left
    return path


def test_rays_are_those_of_a_walk_from_cell_to_cell() -> None:
    density = 2 * torch.rand(1, 2, 5, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = free_paths(density.float())
    wall = [WALL] * REACH
    for y in range(5):
        for x in range(11):
            row, column = density[0, 0, y].tolist(), density[0, 1, :, x].tolist()
            walked = [row[:x][::-1], column[:y][::-1], row[x + 1 :], column[y + 1 :]]
            assert found[0, :, y, x].tolist() == pytest.approx([_path(cells + wall) for cells in walked], rel=1e-4)


def test_the_cells_of_a_walled_box_read_it() -> None:
    density = torch.zeros(1, 2, 9, 12)
    density[:, 0, :, [2, 7]] = density[:, 1, [1, 6], :] = 50.0  # cells 3-6 and 2-5 are within
    for y in range(2, 6):
        for x in range(3, 7):
            expected = [x - 2.5, y - 1.5, 6.5 - x, 5.5 - y]
            assert free_paths(density)[0, :, y, x].tolist() == pytest.approx(expected, abs=1e-5)


def _head(**options: object) -> CurvatureHead:
    torch.manual_seed(0)
    small = {"width": 16, "dimensions": 4, "tower_blocks": 1}
    head = registry.build("curvature", SPECS["vit-wide"], 5, small | options).eval()
    assert isinstance(head, CurvatureHead)
    return head


@pytest.mark.parametrize("borders", ["curvature", "learned"])
def test_boxes_are_those_of_the_rays_up_to_a_factor_of_two(borders: str) -> None:
    head, features = _head(borders=borders), random_features(SPECS["vit-wide"], 1)
    with torch.no_grad():
        head.density.bias.fill_(-2)  # type: ignore[union-attr]
        head.distances.weight.mul_(1000)  # a tower that has much to say
        boxes = head(features).boxes[0]
        rays = [head.reached(head.channels(level))[0].flatten(1).T for level in head.levels(features)]
    read = torch.cat(rays) * head.strides[:, None]  # [N, 4]
    found = torch.cat((head.points - boxes[:, :2], boxes[:, 2:] - head.points), dim=1)
    ratio = found / read
    assert 0.499 < ratio.min() < 0.6
    assert 1.8 < ratio.max() < 2.001


def test_only_the_measured_curvature_reaches_boxes_and_objectness() -> None:
    """On a flat manifold all cells away from the border of the picture say the same, whatever the features."""
    head = _head()
    with torch.no_grad():
        head.manifold[1].weight.zero_()
        channels = [head.channels(level) for level in head.levels(random_features(SPECS["vit-wide"], 1))]
    assert not any(level.any() for level in channels)


def test_the_head_hears_the_curvature() -> None:
    head, features = _head(), random_features(SPECS["vit-wide"], 1)
    before = head(features)
    torch.nn.init.zeros_(head.manifold[1].weight)  # a flat manifold
    after = head(features)
    assert not torch.allclose(before.boxes, after.boxes)
    assert not torch.allclose(before.logits, after.logits)
