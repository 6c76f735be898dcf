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

from detheads.analytical.bridge import equivalent_rows, scale_if_singular
from detheads.analytical.moments import Moments
from detheads.training.sealed import read_sealed, write_sealed

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
    moments: Moments, *, shrinkage: float | None = None, priors: Tensor | None = None
) -> LinearDiscriminantAnalysis:
    """Fit linear discriminant analysis, ``solver="lsqr"``, from the moments of classes.

    scikit-learn uses the covariances of the classes only as their average, weighted by the priors. So the likeliest
    class carries all of that average, divided by its prior, in ``2d`` rows, and every other class is its mean, twice.
    Means and average are then exactly those of the moments.

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
    within = covariance[0] if moments.pooled else torch.einsum("c,cij->ij", shares, covariance)
    diagonal = within.diagonal().mean()
    shrunk = within if shrinkage is None else (1 - shrinkage) * within + shrinkage * diagonal * torch.eye(len(within))
    if scale_if_singular(shrunk, moments.resolution) is not None:
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
    scatter = 2 * len(within) / shares[carrier] * within  # of 2d rows
    rows[carrier], _ = equivalent_rows(means[carrier], scatter, moments.target_mean(), moments.cross())
    labels = np.repeat(np.arange(moments.classes), [len(block) for block in rows])
    estimator = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=shares.numpy())
    return estimator.fit(torch.cat(rows).numpy(), labels)


def ridge_from_moments(moments: Moments, alpha: float | Sequence[float]) -> Ridge:
    """Fit ridge regression with an unpenalised intercept: the least ``||y - Xw||^2 + alpha ||w||^2``, rows weighted.

    Args:
        moments: of the rows, in one class, and their targets.
        alpha: the penalty, or one for each target; not negative.

    Raises:
        ValueError: when there are no rows, or a penalty is negative.

    Warns:
        UserWarning: when the Gram matrix is singular and the penalty too small, which was raised.
    """
    return _RidgeProblem(moments).fit(np.array(alpha, dtype=np.float64))


def ridge_path(moments: Moments, alphas: Sequence[float]) -> list[RidgePoint]:
    """Fit one ridge regression for each penalty: the rows are compressed once, each penalty costs one solve.

    Raises:
        ValueError: when there are no rows, or a penalty is negative.

    Warns:
        UserWarning: when the Gram matrix is singular and a penalty too small, which was raised.
    """
    problem = _RidgeProblem(moments)
    gram, cross, scatter = problem.gram, moments.cross(), moments.target_scatter()
    eigenvalues = torch.linalg.eigvalsh(gram).clamp(min=0)
    points = []
    for alpha in alphas:
        estimator = problem.fit(np.array(alpha, dtype=np.float64))
        weights = torch.from_numpy(estimator.coef_).reshape(moments.targets, -1).T
        residual = scatter + (weights * (gram @ weights - 2 * cross)).sum(0)
        explained = 1 - residual / torch.where(scatter > 0, scatter, 1)
        freedom = (eigenvalues / (eigenvalues + estimator.alpha)).sum()
        points.append(RidgePoint(float(alpha), estimator, explained, float(freedom)))
    return points


class _RidgeProblem:
    """The rows and targets that stand for ridge moments, and the least penalty that can be solved with them."""

    def __init__(self, moments: Moments) -> None:
        mean, self.gram = moments.mean()[0], moments.scatter()[0]
        largest = scale_if_singular(self.gram, moments.resolution)
        self.least_alpha = 0.0 if largest is None else LEAST_PENALTY * largest or 1.0
        rounding = moments.resolution * (largest or 0.0)
        rows, targets = equivalent_rows(mean, self.gram, moments.target_mean(), moments.cross(), rounding)
        self.rows, self.targets = rows.numpy(), targets.numpy()

    def fit(self, alpha: np.ndarray) -> Ridge:
        """Solve for one penalty, or one for each target."""
        if not np.isfinite(alpha).all() or (alpha < 0).any():
            raise ValueError(f"a ridge penalty is a finite number of at least 0, not {alpha.tolist()}.")
        if (alpha < self.least_alpha).any():
            warnings.warn(
                "the Gram matrix is singular (constant or dependent channels, or too few rows); "
                f"the penalty was raised to {self.least_alpha:.3g}.",
                stacklevel=3,
            )
            alpha = np.maximum(alpha, self.least_alpha)
        return Ridge(alpha=alpha if alpha.ndim else float(alpha)).fit(self.rows, self.targets)


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
