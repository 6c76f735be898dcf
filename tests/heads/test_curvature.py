"""Curvature by central differences against surfaces whose curvature is known in closed form."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from detheads.headkit import registry
from detheads.heads.curvature import CurvatureHead, curvature
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


def test_the_head_hears_the_curvature() -> None:
    spec = SPECS["vit-wide"]
    torch.manual_seed(0)
    head = registry.build("curvature", spec, 5, {"width": 16, "dimensions": 4, "tower_blocks": 1}).eval()
    assert isinstance(head, CurvatureHead)
    features = random_features(spec, 1)
    before = head(features)
    torch.nn.init.zeros_(head.manifold[1].weight)  # a flat manifold
    after = head(features)
    assert not torch.allclose(before.boxes, after.boxes)
    assert not torch.allclose(before.logits, after.logits)
