"""Real scikit-learn estimators fitted from streamed moments, and their files.

scikit-learn is given a few compressed rows whose mean and covariance (or Gram matrix and cross products) are exactly
the streamed ones, so it solves the same equations as on all the rows and its estimators come out with all their
methods and attributes.

Regularisation: when the least eigenvalue of a matrix is rounding beside the largest, linear discriminant analysis
raises eigenvalues below ``FLOOR`` times the mean eigenvalue to that value. Ridge regression leaves the directions that
are rounding out (their coefficients are zero) and raises a smaller penalty to ``LEAST_PENALTY`` times the largest
eigenvalue, which gives the least-norm solution. Where that changes the answer a warning says so.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from torch import Tensor

from detheads.analytical.moments import ClassMoments, RidgeMoments
from detheads.analytical.sealed import read_sealed, write_sealed

FLOOR = 1e-6
"""Share of the mean eigenvalue to which smaller eigenvalues of a singular covariance are raised."""

LEAST_PENALTY = 1e-12
"""Share of the largest eigenvalue that is the least penalty of a singular ridge problem."""

Estimator: TypeAlias = LinearDiscriminantAnalysis | Ridge

_KIND = "detheads.estimators"
_ROWS, _COLUMNS = "rows", "columns"
_KINDS: dict[str, type[Estimator]] = {"LinearDiscriminantAnalysis": LinearDiscriminantAnalysis, "Ridge": Ridge}


@dataclass(frozen=True)
class RidgePoint:
    """One step of a lambda sweep.

    Attributes:
        alpha: the penalty, as asked for.
        estimator: the fitted scikit-learn estimator.
        r2: ``[m]`` float64, share of each target's scatter that is explained on the training rows.
        degrees_of_freedom: trace of the hat matrix, intercept not counted (Hastie et al., The Elements of Statistical
            Learning, 2nd edition, equation 3.50).
    """

    alpha: float
    estimator: Ridge
    r2: Tensor
    degrees_of_freedom: float


def lda_from_moments(
    moments: ClassMoments, *, shrinkage: float | None = None, priors: Tensor | None = None
) -> LinearDiscriminantAnalysis:
    """Fit linear discriminant analysis, ``solver="lsqr"``, from class moments.

    scikit-learn uses the covariances of the classes only as their average, weighted by the priors. So the likeliest
    class carries all of that average, divided by its prior, in ``2d`` rows: its mean plus and minus ``sqrt(d)`` times
    the columns of a square root. Every other class is its mean, twice. Means and average are then exactly those of the
    moments.

    Args:
        moments: of at least two classes.
        shrinkage: scikit-learn's, between 0 and 1; ``None`` for none.
        priors: ``[classes]``; by default each class's share of the weight, which calibrates the probabilities.

    Raises:
        ValueError: when a class has no rows, there are fewer than two classes, priors or shrinkage are out of range.

    Warns:
        UserWarning: when the covariance is singular and was regularised.
    """
    if moments.classes < 2:
        raise ValueError("linear discriminant analysis needs at least two classes.")
    means, covariance = moments.mean(), moments.covariance()
    shares = _checked_priors(moments.weight if priors is None else priors, moments.classes).cpu()
    within = covariance[0] if moments.scatter == "pooled" else torch.einsum("c,cij->ij", shares, covariance)
    diagonal = within.diagonal().mean()
    shrunk = within if shrinkage is None else (1 - shrinkage) * within + shrinkage * diagonal * torch.eye(len(within))
    if _is_singular(shrunk, moments.resolution):
        floor = FLOOR * diagonal if diagonal > 0 else torch.ones_like(diagonal)
        warnings.warn(
            "the covariance within the classes is singular (constant or dependent channels, or too few rows); "
            f"its eigenvalues were raised to at least {float(floor):.3g}.",
            stacklevel=2,
        )
        values, vectors = torch.linalg.eigh(within)
        within = vectors * values.clamp(min=floor) @ vectors.T
    carrier = int(shares.argmax())
    rows = [mean.expand(2, -1) for mean in means]
    rows[carrier] = _pairs(means[carrier], (len(within) / shares[carrier]).sqrt() * _square_root(within).T)
    labels = np.repeat(np.arange(moments.classes), [len(block) for block in rows])
    estimator = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=shares.numpy())
    return estimator.fit(torch.cat(rows).numpy(), labels)


def ridge_from_moments(moments: RidgeMoments, alpha: float | Sequence[float]) -> Ridge:
    """Fit ridge regression with an unpenalised intercept: the least ``||y - Xw||^2 + alpha ||w||^2``, rows weighted.

    The rows given to scikit-learn are the input mean plus and minus the triangular factor of the centred Gram matrix
    over the root of two, with the targets that have the same cross products.

    Args:
        moments: of the ridge problem.
        alpha: the penalty, or one for each output; not negative.

    Raises:
        ValueError: when there are no rows, or a penalty is negative.

    Warns:
        UserWarning: when the Gram matrix is singular and the penalty too small, which was raised.
    """
    return _RidgeProblem(moments).fit(np.array(alpha, dtype=np.float64))


def ridge_path(moments: RidgeMoments, alphas: Sequence[float]) -> list[RidgePoint]:
    """Fit one ridge regression for each penalty: the rows are compressed once, each penalty costs one solve.

    Raises:
        ValueError: when there are no rows, or a penalty is negative.

    Warns:
        UserWarning: when the Gram matrix is singular and a penalty too small, which was raised.
    """
    problem = _RidgeProblem(moments)
    scatter = moments.target_scatter
    positive = problem.eigenvalues.clamp(min=0)
    points = []
    for alpha in alphas:
        estimator = problem.fit(np.array(alpha, dtype=np.float64))
        weights = torch.from_numpy(estimator.coef_).reshape(moments.outputs, -1).T
        residual = scatter + (weights * (problem.gram @ weights - 2 * problem.cross)).sum(0)
        explained = 1 - residual / torch.where(scatter > 0, scatter, 1)
        freedom = (positive / (positive + estimator.alpha)).sum()
        points.append(RidgePoint(float(alpha), estimator, explained, float(freedom)))
    return points


def save_estimators(path: Path, estimators: Mapping[str, Estimator]) -> None:
    """Write fitted estimators to one safetensors file, atomically and without pickle.

    Raises:
        TypeError: when a parameter or attribute of an estimator is neither an array nor a JSON value.
        ValueError: when a name holds a slash or an estimator is of another kind.
    """
    tensors: dict[str, Tensor] = {}
    described: dict[str, dict[str, Any]] = {}
    for name, estimator in estimators.items():
        kind = type(estimator).__name__
        if "/" in name or _KINDS.get(kind) is not type(estimator):
            raise ValueError(f"{name!r} ({kind}) cannot be saved: names hold no slash, kinds are {', '.join(_KINDS)}.")
        parameters = estimator.get_params()
        fitted = {key: value for key, value in vars(estimator).items() if key not in parameters}
        described[name] = {"kind": kind}
        for part, values in (("parameters", parameters), ("fitted", fitted)):
            described[name][part] = {}
            for key, value in values.items():
                if isinstance(value, np.ndarray):
                    # Equal bits of a prediction need the order in memory, too, which decides how BLAS adds up.
                    by_columns = value.flags.f_contiguous and not value.flags.c_contiguous
                    place = f"{name}/{part}/{_COLUMNS if by_columns else _ROWS}/{key}"
                    tensors[place] = torch.from_numpy(np.ascontiguousarray(value.T if by_columns else value))
                else:
                    described[name][part][key] = value.item() if isinstance(value, np.generic) else value
    write_sealed(path, _KIND, described, tensors)


def load_estimators(path: Path) -> dict[str, Estimator]:
    """Read what :func:`save_estimators` wrote. The estimators predict exactly as those that were saved.

    Raises:
        UserError: when the file is missing, damaged or something else.
    """
    described, tensors = read_sealed(path, _KIND, "fit it again with 'detheads analytical fit'")
    estimators = {}
    for place, tensor in tensors.items():
        name, part, order, key = place.split("/")
        array = tensor.numpy()
        described[name][part][key] = array.T if order == _COLUMNS else array
    for name, entry in described.items():
        estimator = _KINDS[entry["kind"]](**entry["parameters"])
        vars(estimator).update(entry["fitted"])
        estimators[name] = estimator
    return estimators


def _checked_priors(priors: Tensor, classes: int) -> Tensor:
    priors = priors.double()
    if priors.shape != (classes,) or not (priors >= 0).all() or not (0 < priors.sum() < torch.inf):
        raise ValueError(f"priors are {classes} numbers of at least 0 that do not all vanish, not {priors.tolist()}.")
    return priors / priors.sum()


def _is_singular(matrix: Tensor, resolution: float) -> bool:
    """Whether the least eigenvalue is rounding beside the largest.

    Eigenvalues are slow to find and mostly not needed: the least is at least ``1 / |L^-1|^2`` with the Cholesky factor
    ``L`` (Frobenius norm), and the largest at most the trace.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not failed:
        inverse = torch.linalg.solve_triangular(factor, torch.eye(len(matrix), dtype=matrix.dtype), upper=False)
        if 1 / inverse.square().sum() > resolution * matrix.trace():
            return False
    return _vanishes(torch.linalg.eigvalsh(matrix), resolution)


def _vanishes(eigenvalues: Tensor, resolution: float) -> bool:
    """Whether the least of ascending eigenvalues is rounding beside the largest."""
    return bool(eigenvalues[0] <= resolution * eigenvalues[-1])


def _pairs(mean: Tensor, offsets: Tensor) -> Tensor:
    """Rows on both sides of a mean, so that it is theirs."""
    return torch.cat([mean + offsets, mean - offsets])


def _square_root(matrix: Tensor) -> Tensor:
    """``F`` with ``F @ F.T == matrix``: Cholesky's, or by eigenvalues where there is none.

    Rounding leaves eigenvalues of a singular matrix a little below zero; those count as zero.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not failed:
        return factor
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt()


class _RidgeProblem:
    """``2d`` rows and targets with the means, centred Gram matrix and cross products of ridge moments."""

    def __init__(self, moments: RidgeMoments) -> None:
        self.gram, self.cross = moments.gram, moments.cross
        self.eigenvalues = torch.linalg.eigvalsh(self.gram)
        self.singular = _vanishes(self.eigenvalues, moments.resolution)
        half_rows, half_targets = self._reduced(moments.resolution) if self.singular else self._triangular()
        self.rows = _pairs(moments.input_mean, half_rows).numpy()
        self.targets = _pairs(moments.target_mean, half_targets).numpy()

    def _triangular(self) -> tuple[Tensor, Tensor]:
        """``R`` and ``T`` with ``2 R'R`` the Gram matrix and ``2 R'T`` the cross products; ``R`` triangular."""
        factor = torch.linalg.cholesky(self.gram / 2)
        return factor.T, torch.linalg.solve_triangular(factor, self.cross / 2, upper=False)

    def _reduced(self, resolution: float) -> tuple[Tensor, Tensor]:
        """The same by eigenvalues, without the directions that are rounding: division would blow those up."""
        values, vectors = torch.linalg.eigh(self.gram / 2)
        kept = values > resolution * values[-1]
        roots = torch.where(kept, values, 0).sqrt()[:, None]
        inverse = torch.where(kept[:, None], 1 / roots, 0)
        return roots * vectors.T, inverse * (vectors.T @ self.cross / 2)

    def fit(self, alpha: np.ndarray) -> Ridge:
        """Solve for one penalty, or one for each output."""
        if not np.isfinite(alpha).all() or (alpha < 0).any():
            raise ValueError(f"a ridge penalty is a finite number of at least 0, not {alpha.tolist()}.")
        largest = float(self.eigenvalues[-1])
        least = LEAST_PENALTY * largest if largest > 0 else 1.0
        if self.singular and (alpha < least).any():
            warnings.warn(
                "the Gram matrix is singular (constant or dependent channels, or too few rows); "
                f"the penalty was raised to {least:.3g}.",
                stacklevel=3,
            )
            alpha = np.maximum(alpha, least)
        return Ridge(alpha=alpha if alpha.ndim else float(alpha)).fit(self.rows, self.targets)
