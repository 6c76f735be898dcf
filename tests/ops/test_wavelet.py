"""The wavelet transform: exact, orthogonal, and blind to what its moments say."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detheads.ops.wavelet import Family, analyse, filters
from tests.ops.inverses import synthesise

SIZES = [(8, 8), (6, 4), (2, 2), (5, 13), (7, 4), (1, 3), (1, 1)]


@pytest.fixture(params=["haar", "db2"])
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture
def bank(family: Family) -> Tensor:
    return filters(family, torch.float64)


@pytest.mark.parametrize("size", SIZES)
def test_three_steps_are_undone_exactly(bank: Tensor, size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    approximation, steps = x, []
    for _ in range(3):
        before = approximation.shape[2:]
        approximation, details = analyse(approximation, bank)
        assert approximation.shape[2:] == details.shape[3:] == tuple(-(-side // 2) for side in before)
        steps.append((details, before))
    for details, before in reversed(steps):
        approximation = synthesise(approximation, details, bank, (before[0], before[1]))
    torch.testing.assert_close(approximation, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (8, 4)])
def test_the_transform_of_an_even_size_is_an_orthogonal_matrix(bank: Tensor, size: tuple[int, int]) -> None:
    cells = math.prod(size)
    basis = torch.eye(cells, dtype=torch.float64).view(cells, 1, *size)
    approximation, details = analyse(basis, bank)
    matrix = torch.cat((approximation.flatten(1), details.flatten(1)), dim=1)  # [cells, cells]
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(cells, dtype=torch.float64), rtol=0, atol=1e-12)


def test_energy_is_kept(bank: Tensor) -> None:
    x = torch.randn(1, 2, 12, 10, dtype=torch.float64)
    energy = sum(part.square().sum() for part in analyse(x, bank))
    torch.testing.assert_close(energy, x.square().sum())


@pytest.mark.parametrize("size", SIZES)
def test_a_constant_has_no_details(bank: Tensor, size: tuple[int, int]) -> None:
    approximation, details = analyse(torch.full((1, 1, *size), 3.0, dtype=torch.float64), bank)
    assert details.abs().max() < 1e-12
    torch.testing.assert_close(approximation, torch.full_like(approximation, 6.0))


@pytest.mark.parametrize("along", [2, 3])
def test_only_the_daubechies_wavelet_is_blind_to_ramps(family: Family, bank: Tensor, along: int) -> None:
    ramp = torch.arange(16, dtype=torch.float64).expand(16, 16)[None, None]
    _, details = analyse(ramp if along == 3 else ramp.mT, bank)
    inside = details[..., :-1, :-1].abs().amax(dim=(0, 1, 3, 4))  # LH, HL, HH away from the period's end
    if family == "db2":
        assert inside.max() < 1e-12
    else:
        seen = 1 if along == 3 else 0  # high-pass along x is HL
        assert [bool(value > 0.1) for value in inside] == [band == seen for band in range(3)]


def test_haar_is_the_sum_and_the_differences_of_four_cells() -> None:
    x = torch.randn(1, 1, 4, 6)
    approximation, details = analyse(x, filters("haar"))
    torch.testing.assert_close(approximation, 2 * F.avg_pool2d(x, 2))
    a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
    for band, wanted in enumerate(((a + b - c - d) / 2, (a - b + c - d) / 2, (a - b - c + d) / 2)):
        torch.testing.assert_close(details[:, :, band], wanted)


@pytest.mark.parametrize("size", [(8, 6), (5, 7)])
def test_a_projection_of_channels_commutes_with_the_transform(bank: Tensor, size: tuple[int, int]) -> None:
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    weight = torch.randn(3, 6, dtype=torch.float64)
    before = analyse(torch.einsum("dc,bchw->bdhw", weight, x), bank)
    approximation, details = analyse(x, bank)
    torch.testing.assert_close(before[0], torch.einsum("dc,bchw->bdhw", weight, approximation))
    torch.testing.assert_close(before[1], torch.einsum("dc,bcshw->bdshw", weight, details))
