"""The rows that scikit-learn is given have the means and the sums of products that they were made for."""

import numpy as np
import pytest
import torch
from torch import Tensor

from detheads.analytical.bridge import equivalent_rows, scale_if_singular

DIMENSIONS, TARGETS = 9, 3


def _problem(rank: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, scatter, target mean and cross products of 40 rows that vary along ``rank`` directions."""
    generator = torch.Generator().manual_seed(rank)
    rows = torch.randn(40, rank, generator=generator, dtype=torch.float64)
    rows = rows @ torch.randn(rank, DIMENSIONS, generator=generator, dtype=torch.float64) + 5
    targets = rows[:, :TARGETS].cos() - 2
    centred, wanted = rows - rows.mean(0), targets - targets.mean(0)
    return rows.mean(0), centred.T @ centred, targets.mean(0), centred.T @ wanted


@pytest.mark.parametrize("least", [0.0, 1e-9])
@pytest.mark.parametrize("rank", [2, DIMENSIONS])
def test_rows_and_targets_have_the_given_means_and_products(rank: int, least: float) -> None:
    mean, scatter, target_mean, cross = _problem(rank)
    if rank < DIMENSIONS and not least:
        least = 1e-12 * float(scatter.trace())
    rows, targets = equivalent_rows(mean, scatter, target_mean, cross, least)
    assert (rows.shape, targets.shape) == ((2 * DIMENSIONS, DIMENSIONS), (2 * DIMENSIONS, TARGETS))
    centred, wanted = (rows - rows.mean(0)).numpy(), (targets - targets.mean(0)).numpy()
    np.testing.assert_allclose(rows.mean(0), mean, rtol=1e-12)
    np.testing.assert_allclose(targets.mean(0), target_mean, rtol=1e-12)
    np.testing.assert_allclose(centred.T @ centred, scatter, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(centred.T @ wanted, cross, rtol=1e-9, atol=1e-8)


def test_rows_do_not_vary_along_directions_that_are_rounding() -> None:
    scatter = torch.diag(torch.tensor([4.0, 1.0, 1e-8], dtype=torch.float64))
    cross = torch.ones(3, 1, dtype=torch.float64)
    rows, targets = equivalent_rows(torch.zeros(3), scatter, torch.zeros(1), cross, least=1e-7)
    np.testing.assert_allclose(rows.T @ rows, np.diag([4.0, 1.0, 0.0]), atol=1e-15)
    np.testing.assert_allclose((rows.T @ targets)[:, 0], [1.0, 1.0, 0.0], atol=1e-12)
    assert targets.abs().max() < 1  # the third, divided by its root, would be 7071


@pytest.mark.parametrize(("scatter", "kept"), [(1.1e-7, True), (0.9e-7, False)])
def test_a_direction_varies_when_its_scatter_exceeds_the_least(scatter: float, kept: bool) -> None:
    matrix, nothing = torch.diag(torch.tensor([4.0, scatter], dtype=torch.float64)), torch.zeros(2, 0)
    rows, _ = equivalent_rows(torch.zeros(2), matrix, torch.zeros(0), nothing.double(), least=1e-7)
    assert float((rows.T @ rows)[1, 1]) == pytest.approx(scatter if kept else 0.0, abs=1e-12)


def test_rows_without_targets_are_made_too() -> None:
    mean, scatter, _, _ = _problem(DIMENSIONS)
    rows, targets = equivalent_rows(mean, scatter, torch.zeros(0), torch.zeros(DIMENSIONS, 0, dtype=torch.float64))
    np.testing.assert_allclose(np.cov(rows.T, bias=True) * len(rows), scatter, rtol=1e-10, atol=1e-9)
    assert targets.shape == (2 * DIMENSIONS, 0)


@pytest.mark.parametrize("least", [3e-7, 1e-7, 0.99e-7, 1e-8, 0.0, -1e-18, -0.2])
def test_a_matrix_is_singular_when_its_least_eigenvalue_is_rounding_beside_the_largest(least: float) -> None:
    generator = torch.Generator().manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
    eigenvalues = torch.tensor([least * 5, 1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    found = scale_if_singular(rotation * eigenvalues @ rotation.T, 1.0001e-7)
    assert (found is not None) == (least <= 1.0001e-7)
    assert found is None or found == pytest.approx(5)


def test_a_matrix_of_zeros_is_singular() -> None:
    assert scale_if_singular(torch.zeros(4, 4, dtype=torch.float64), 1e-7) == 0
