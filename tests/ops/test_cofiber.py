"""The cofiber decomposition is exact, whatever the size and the number of bands."""

import math

import pytest
import torch

from detheads.ops.cofiber import decompose, upsample_to
from tests.ops.inverses import reconstruct

SIZES = [(32, 48), (31, 47), (33, 16), (7, 5), (1, 9), (1, 1)]


def _random(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 100 + width)
    return torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64) * 10


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 7])
def test_bands_sum_back_to_the_input(size: tuple[int, int], bands: int) -> None:
    features = _random(*size)
    torch.testing.assert_close(reconstruct(decompose(features, bands)), features, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_each_band_has_half_the_sides_of_the_finer_one_rounded_up(size: tuple[int, int]) -> None:
    shapes = [tuple(band.shape) for band in decompose(_random(*size), 5)]
    assert shapes == [(2, 3, math.ceil(size[0] / 2**level), math.ceil(size[1] / 2**level)) for level in range(5)]


def test_the_first_band_lacks_what_the_average_of_two_by_two_cells_holds() -> None:
    features = _random(8, 12)
    low = features.view(2, 3, 4, 2, 6, 2).mean(dim=(3, 5))
    fine, coarse = decompose(features, 2)
    torch.testing.assert_close(coarse, low, rtol=0, atol=1e-12)
    torch.testing.assert_close(fine, features - upsample_to(low, features), rtol=0, atol=1e-12)


def test_a_border_cell_of_an_odd_map_averages_only_what_is_there() -> None:
    features = _random(3, 3)
    _, coarse = decompose(features, 2)
    torch.testing.assert_close(coarse[..., 1, 1], features[..., 2, 2], rtol=0, atol=1e-12)
    torch.testing.assert_close(coarse[..., 0, 1], features[..., :2, 2].mean(dim=2), rtol=0, atol=1e-12)


def test_a_constant_map_has_only_a_coarsest_band() -> None:
    *fine, coarsest = decompose(torch.full((1, 1, 13, 6), 3.0, dtype=torch.float64), 3)
    assert all(band.abs().max() < 1e-12 for band in fine)
    assert (coarsest == 3).all()


def test_no_band_is_not_a_decomposition() -> None:
    with pytest.raises(ValueError, match="at least one band, not 0"):
        decompose(_random(4, 4), 0)
