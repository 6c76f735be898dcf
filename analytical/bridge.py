"""From moments to the few rows that scikit-learn is given in place of all.

Least squares and discriminant analysis see their rows only through means and sums of products. So ``2d`` rows with the
same means and sums make scikit-learn solve the same equations as all the rows would.
"""

import torch
from torch import Tensor


def equivalent_rows(
    mean: Tensor, scatter: Tensor, target_mean: Tensor, cross: Tensor, least: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Rows and targets with given means and centred sums of products.

    They are ``mean +- H`` and ``target_mean +- T`` where ``2 H'H`` is the scatter and ``2 H'T`` the cross products.

    Args:
        mean, scatter: ``[d]`` and ``[d, d]`` float64, of the rows; the scatter symmetric and not negative.
        target_mean, cross: ``[m]`` and ``[d, m]`` float64, of the targets; ``m`` may be 0.
        least: directions whose scatter is at most this are rounding: the rows do not vary along them. Division by it
            would blow up the targets.

    Returns:
        Rows ``[2d, d]`` and targets ``[2d, m]``, float64.
    """
    factor, failed = torch.linalg.cholesky_ex(scatter / 2)
    if failed or least > 0:
        values, vectors = torch.linalg.eigh(scatter / 2)
        roots = torch.where(values > least / 2, values, 0).sqrt()[:, None]  # rounding leaves some a little below zero
        half = roots * vectors.T
        half_targets = torch.where(roots > 0, 1 / roots, 0) * (vectors.T @ cross / 2)
    else:
        half, half_targets = factor.T, torch.linalg.solve_triangular(factor, cross / 2, upper=False)
    rows, targets = (mean + half, mean - half), (target_mean + half_targets, target_mean - half_targets)
    return torch.cat(rows), torch.cat(targets)


def scale_if_singular(matrix: Tensor, resolution: float) -> float | None:
    """The largest eigenvalue of a symmetric matrix where the least is rounding beside it; None where it is not.

    Eigenvalues are slow to find and mostly not needed: the least is at least ``1 / |L^-1|^2`` with the Cholesky factor
    ``L`` (Frobenius norm), and the largest at most the trace.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not failed:
        inverse = torch.linalg.solve_triangular(factor, torch.eye(len(matrix), dtype=matrix.dtype), upper=False)
        if 1 / inverse.square().sum() > resolution * matrix.trace():
            return None
    values = torch.linalg.eigvalsh(matrix)  # ascending
    return float(values[-1]) if values[0] <= resolution * values[-1] else None
