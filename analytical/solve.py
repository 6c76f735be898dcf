"""From statistics to the first stage of the detector: discriminants and ridge regressions, solved by scikit-learn."""

import math
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from torch import Tensor

from detheads.analytical.anchors import ANCHORS
from detheads.analytical.estimators import Estimator, RidgePoint, lda_from_moments, ridge_from_moments, ridge_path
from detheads.analytical.first_stage import Discriminant, FirstStage, Mixture
from detheads.analytical.moments import Moments
from detheads.analytical.statistics import Statistics
from detheads.foundation.errors import UserError

Result = TypeVar("Result")
P = ParamSpec("P")


@dataclass(frozen=True)
class Strengths:
    """How strongly the solves are regularised.

    Attributes:
        shrinkage: share of the identity in each covariance (scikit-learn's ``shrinkage``), 0 to 1.
        alpha: ridge penalty of anchors and boxes.
        region_alpha: ridge penalty of the rounds.
    """

    shrinkage: float = 0.01
    alpha: float = 100.0
    region_alpha: float = 300.0

    def __post_init__(self) -> None:
        if not 0 <= self.shrinkage <= 1:
            raise UserError(f"--shrinkage must be between 0 and 1, not {self.shrinkage}.")
        for name in ("alpha", "region_alpha"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"--{name.replace('_', '-')} must be 0 or more, not {getattr(self, name)}.")


@dataclass
class Solution:
    """What the solves gave: the fitted scikit-learn estimators by name, and what the user should know of them."""

    estimators: dict[str, Estimator] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def noting(self, name: str, solve: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Call ``solve``; its warnings become remarks that name the problem they belong to."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = solve(*args, **kwargs)
        for text in dict.fromkeys(str(warning.message) for warning in caught):
            self.remarks.append(f"{name}: {text}")
        return result


def solve_first_stage(statistics: Statistics, strengths: Strengths, head: FirstStage) -> Solution:
    """Solve the discriminants, anchor classifiers and box regressions, and put them into ``head``.

    A level or an anchor that fewer cells with an object belong to than there are anchors is solved from those of all
    levels or anchors, with a remark.

    Raises:
        UserError: when no cell stands for an object of some class.
    """
    solution = Solution()
    names = [category.name for category in statistics.plan.identity.categories]
    counts = torch.stack([level.weight for level in statistics.classes]).sum(dim=0)[1:]
    missing = [name for name, count in zip(names, counts.tolist(), strict=True) if not count]
    if missing:
        raise UserError(
            f"no cell stands for an object of {', '.join(missing)}; name other classes with --class, or add images."
        )
    if isinstance(head.classifier, Discriminant):
        equal = head.config.covariance == "equal"
        _solve_discriminants(statistics, strengths, head.classifier, equal, solution)
    elif isinstance(head.classifier, Mixture):
        _solve_mixture(statistics, strengths, head.classifier)
    everywhere = _sum(statistics.anchors)
    for level, moments in enumerate(statistics.anchors):
        own = _enough(moments, everywhere, f"level {level}", solution)
        ridge = solution.noting(f"anchor level {level}", ridge_from_moments, own, strengths.alpha)
        solution.estimators[f"anchor_level{level}"] = ridge
        put_ridge(ridge, head.anchor_weight[level], head.anchor_bias[level])
    everywhere = _sum(statistics.boxes)
    weights = head.box_weight.view(-1, ANCHORS, 4)
    for anchor, moments in enumerate(statistics.boxes):
        own = _enough(moments, everywhere, f"anchor {anchor}", solution)
        ridge = solution.noting(f"box anchor {anchor}", ridge_from_moments, own, strengths.alpha)
        solution.estimators[f"box_anchor{anchor}"] = ridge
        put_ridge(ridge, weights[:, anchor], head.box_bias.view(ANCHORS, 4)[anchor])
    return solution


def sweep_anchors(statistics: Statistics, alphas: Sequence[float]) -> dict[str, list[RidgePoint]]:
    """Ridge regressions of each level's anchor classifier for many penalties, without another pass."""
    return {
        f"anchor_level{level}": ridge_path(moments, alphas)
        for level, moments in enumerate(statistics.anchors)
        if moments.total > 1
    }


def _solve_discriminants(
    statistics: Statistics, strengths: Strengths, classifier: Discriminant, equal: bool, solution: Solution
) -> None:
    groups = sorted(set(classifier.groups))
    everything = _sum(statistics.classes)
    for group in groups:
        moments = everything if len(groups) == 1 else statistics.classes[group]
        name = "discriminant" if len(groups) == 1 else f"discriminant_level{group}"
        if not (moments.weight > 0).all():
            solution.remarks.append(f"{name}: a class has no cell on this level; all levels were taken together.")
            moments = everything
        priors = torch.ones(moments.classes) if equal else None
        lda = solution.noting(name, lda_from_moments, moments, shrinkage=strengths.shrinkage, priors=priors)
        solution.estimators[name] = lda
        weight, bias = log_odds(lda)
        if equal:  # scikit-learn's priors weight the covariances and set the bias: the bias gets the true ones back
            bias = bias + (moments.weight[1:] / moments.weight[0]).log().float()
        classifier.weight[group].copy_(weight)
        classifier.bias[group].copy_(bias)


def log_odds(lda: LinearDiscriminantAnalysis) -> tuple[Tensor, Tensor]:
    """Weights ``[d, K]`` and biases ``[K]`` of the log-odds of each class against the first (background)."""
    coefficients, intercept = np.atleast_2d(lda.coef_), np.atleast_1d(lda.intercept_)
    if len(coefficients) > 1:  # scikit-learn keeps one function a class, and their difference for two classes
        coefficients, intercept = coefficients[1:] - coefficients[:1], intercept[1:] - intercept[:1]
    return torch.from_numpy(coefficients.T.copy()).float(), torch.from_numpy(intercept.copy()).float()


def _solve_mixture(statistics: Statistics, strengths: Strengths, classifier: Mixture) -> None:
    """A Gaussian a class and level; one without rows takes no part (its share is zero)."""
    total = sum(level.total for level in statistics.classes)
    if statistics.classes[0].pooled:
        raise UserError("a Gaussian mixture needs a covariance for each class, which so many classes do not have.")
    for level, moments in enumerate(statistics.classes):
        for group, weight in enumerate(moments.weight.tolist()):
            if not weight:
                classifier.log_share[group, level] = -1e9
                continue
            own = moments.only(group)
            mean, covariance = own.mean()[0], own.covariance()[0]
            size = len(mean)
            spread = covariance.diagonal().mean().clamp(min=1e-12)
            # One Gaussian has few rows to its name: the floor keeps its inverse covariance finite.
            strength = max(strengths.shrinkage, min(1.0, size / weight) / 2)
            shrunk = (1 - strength) * covariance + strength * spread * torch.eye(size, dtype=torch.float64)
            inverse_root = torch.linalg.inv(torch.linalg.cholesky(shrunk)).T  # W with W W^T the inverse
            classifier.whitening[group, level].copy_(inverse_root)
            classifier.mean[group, level].copy_(mean)
            classifier.log_share[group, level] = math.log(weight / total) + float(inverse_root.diagonal().log().sum())


def _sum(moments: Sequence[Moments]) -> Moments:
    total = deepcopy(moments[0])
    for each in moments[1:]:
        total.merge(each)
    return total


def _enough(own: Moments, everywhere: Moments, what: str, solution: Solution) -> Moments:
    """The moments to solve: a problem's own, or all together where it has fewer rows than anchors."""
    if own.total >= ANCHORS:
        return own
    solution.remarks.append(
        f"{what} has {own.total:.0f} cells with an object, fewer than the {ANCHORS} anchors; it was solved from all."
    )
    return everywhere


def put_ridge(ridge: Ridge, weight: Tensor, bias: Tensor) -> None:
    """Copy a fitted ridge regression into ``weight [inputs, outputs]`` and ``bias [outputs]``."""
    weight.copy_(torch.from_numpy(np.atleast_2d(ridge.coef_).T.copy()))
    bias.copy_(torch.from_numpy(np.atleast_1d(ridge.intercept_).copy()))
