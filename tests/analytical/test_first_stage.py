"""What is solved from a pass equals scikit-learn's and SciPy's estimators on all the rows."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from torch import Tensor

from detheads.analytical.anchors import ANCHORS, encode, nearest_anchor
from detheads.analytical.assignment import assign_cells
from detheads.analytical.closed_form import ClosedForm
from detheads.analytical.config import Config
from detheads.analytical.moments import Moments
from detheads.analytical.plan import Plan, make_plan, select_classes
from detheads.analytical.solve import Solution, Strengths, solve_first_stage
from detheads.analytical.statistics import Statistics, collect
from detheads.cache.reader import FeatureCache
from detheads.foundation.errors import UserError
from detheads.foundation.progress import silent
from tests.analytical.conftest import QUICK
from tests.training.world import World

LEVELS = 5
STRENGTHS = Strengths(shrinkage=0.02, alpha=30.0)


@dataclass(frozen=True)
class Rows:
    """All cells of a level: what is seen of them, their class (0 is background), place and object."""

    seen: NDArray[np.float64]
    labels: NDArray[np.int64]
    inputs: NDArray[np.float64]
    boxes: Tensor
    centers: Tensor

    @property
    def taken(self) -> NDArray[np.bool_]:
        return self.labels > 0


def _gathered(head: ClosedForm, cache: FeatureCache) -> list[Rows]:
    """The rows of every level, image by image and cell by cell."""
    result = []
    ends = np.cumsum([0, *head.points_per_level])
    for level in range(LEVELS):
        seen, labels, inputs, boxes, centers = [], [], [], [], []
        for index in range(len(cache)):
            rows, target = head.level_rows(cache.features([index]))[level][0], cache.targets(index)
            owners = assign_cells(head.points, head.strides, target.boxes)[ends[level] : ends[level + 1]]
            for cell, (row, owner) in enumerate(zip(rows, owners.tolist(), strict=True)):
                center = head.points[ends[level] + cell]
                place = center / torch.tensor([head.spec.width, head.spec.height]) - 0.5
                seen.append(row.double().numpy())
                inputs.append(torch.cat((row, place)).double().numpy())
                labels.append(0 if owner < 0 else 1 + int(target.labels[owner]))
                boxes.append(target.boxes[owner] if owner >= 0 else torch.zeros(4))
                centers.append(center)
        result.append(
            Rows(np.stack(seen), np.array(labels), np.stack(inputs), torch.stack(boxes), torch.stack(centers))
        )
    return result


@dataclass(frozen=True)
class Case:
    """A first stage solved from a pass, and the rows of the same images."""

    head: ClosedForm
    plan: Plan
    statistics: Statistics
    solution: Solution
    rows: list[Rows]


@pytest.fixture(scope="module")
def solved(
    world: World, narrow: FeatureCache, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Config, tuple[str, ...]], Case]:
    """Collect and solve, once for equal arguments: ``solved("train", config, classes)``."""
    known: dict[object, Case] = {}

    def solve(cache: str, config: Config, classes: tuple[str, ...]) -> Case:
        key = (cache, config, classes)
        if key not in known:
            opened = select_classes(narrow if cache == "narrow" else world.cache(cache), classes)
            plan = make_plan(opened, config, silent)
            path = tmp_path_factory.mktemp("pass") / "statistics.safetensors"
            statistics = collect(opened, plan, path, 0, len(opened), silent)
            head = plan.build_head()
            solution = solve_first_stage(statistics, STRENGTHS, head)
            known[key] = Case(head, plan, statistics, solution, _gathered(head, opened))
        return known[key]

    return solve


CASES = {
    "bands, one class": ("narrow", Config(), ("crescent",)),
    "bands, three classes": ("narrow", Config(), ("crescent", "cross", "star")),
    "bands, all ten classes": ("narrow", Config(), ()),
    "context, one class": ("train", replace(QUICK, directions="shared"), ("crescent",)),
    "context, all ten classes": ("train", replace(QUICK, directions="shared"), ()),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, solved: Callable[..., Case]) -> Case:
    return solved(*CASES[request.param])


def _close(found: Tensor, wanted: NDArray[np.float64], tolerance: float = 2e-3) -> None:
    """Equal within float32 sums, relative to the spread of the values."""
    assert found.shape == wanted.shape
    assert np.abs(found.double().numpy() - wanted).max() <= tolerance * max(1e-3, wanted.std())


def _log_odds(estimator: LinearDiscriminantAnalysis, seen: NDArray[np.float64]) -> NDArray[np.float64]:
    """scikit-learn's decision values of each class against background."""
    decisions = estimator.decision_function(seen)
    return decisions[:, None] if decisions.ndim == 1 else decisions[:, 1:] - decisions[:, :1]


def test_the_pass_counts_every_cell_once(case: Case) -> None:
    for moments, rows in zip(case.statistics.classes, case.rows, strict=True):
        assert moments.weight.tolist() == np.bincount(rows.labels, minlength=moments.classes).tolist()
    assert case.statistics.rows == sum(len(rows.labels) for rows in case.rows)
    assert case.statistics.images == 10


def test_logits_are_the_decision_values_of_scikit_learn_fitted_on_all_rows(case: Case) -> None:
    seen, labels = (np.concatenate([getattr(rows, name) for rows in case.rows]) for name in ("seen", "labels"))
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=STRENGTHS.shrinkage).fit(seen, labels)
    for level, rows in enumerate(case.rows):
        logits = case.head.classifier(torch.from_numpy(rows.seen).float()[None], level)[0]
        _close(logits, _log_odds(reference, rows.seen))


def test_the_kept_discriminant_equals_scikit_learn_s_on_all_rows(case: Case) -> None:
    seen, labels = (np.concatenate([getattr(rows, name) for rows in case.rows]) for name in ("seen", "labels"))
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=STRENGTHS.shrinkage).fit(seen, labels)
    kept = case.solution.estimators["discriminant"]
    assert isinstance(kept, LinearDiscriminantAnalysis)
    np.testing.assert_allclose(kept.means_, reference.means_, atol=1e-4)
    np.testing.assert_allclose(kept.priors_, reference.priors_)
    _close(torch.from_numpy(kept.decision_function(seen)), reference.decision_function(seen))


def test_anchors_are_chosen_by_scikit_learn_s_ridge_on_all_cells_of_objects(case: Case) -> None:
    own, everything = [], []
    for rows in case.rows:
        nearest = nearest_anchor(rows.boxes[torch.from_numpy(rows.taken)], case.head.anchors)
        own.append((rows.inputs[rows.taken], np.eye(ANCHORS)[nearest.numpy()]))
    everything = [np.concatenate(parts) for parts in zip(*own, strict=True)]
    few = 0
    for level, (inputs, targets) in enumerate(own):
        few += len(inputs) < ANCHORS
        used = everything if len(inputs) < ANCHORS else (inputs, targets)
        reference = Ridge(alpha=STRENGTHS.alpha).fit(*used)
        probe = case.rows[level].inputs
        found = torch.from_numpy(probe).float() @ case.head.anchor_weight[level] + case.head.anchor_bias[level]
        _close(found, reference.predict(probe))
    assert sum("level" in line and "solved from all" in line for line in case.solution.remarks) == few


def test_boxes_are_placed_by_scikit_learn_s_ridge_for_each_anchor(case: Case) -> None:
    inputs = np.concatenate([rows.inputs[rows.taken] for rows in case.rows])
    boxes, centers = (
        torch.cat([getattr(rows, name)[torch.from_numpy(rows.taken)] for rows in case.rows])
        for name in ("boxes", "centers")
    )
    nearest = nearest_anchor(boxes, case.head.anchors)
    offsets = encode(boxes, centers, case.head.anchors[nearest]).double().numpy()
    probe = np.concatenate([rows.inputs for rows in case.rows])
    found = (torch.from_numpy(probe).float() @ case.head.box_weight + case.head.box_bias).view(-1, ANCHORS, 4)
    few = 0
    for anchor in range(ANCHORS):
        own = (nearest == anchor).numpy()
        few += own.sum() < ANCHORS
        used = np.ones_like(own) if own.sum() < ANCHORS else own
        reference = Ridge(alpha=STRENGTHS.alpha).fit(inputs[used], offsets[used])
        _close(found[:, anchor], reference.predict(probe))
    assert few > 0
    assert (few < ANCHORS) == (len(inputs) > 100)
    assert sum(line.startswith("anchor ") and "solved from all" in line for line in case.solution.remarks) == few


def test_a_level_of_its_own_direction_is_solved_from_its_own_rows(solved: Callable[..., Case]) -> None:
    case = solved("train", QUICK, ("crescent",))
    separate = 0
    for level, rows in enumerate(case.rows):
        empty = not rows.taken.any()
        separate += not empty
        names = ("seen", "labels")
        used = [np.concatenate([getattr(each, name) for each in case.rows]) for name in names]
        if not empty:
            used = [rows.seen, rows.labels]
        reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=STRENGTHS.shrinkage).fit(*used)
        logits = case.head.classifier(torch.from_numpy(rows.seen).float()[None], level)[0]
        _close(logits, _log_odds(reference, rows.seen))
        remarked = any(
            line.startswith(f"discriminant_level{level}: a class has no cell") for line in case.solution.remarks
        )
        assert remarked == empty
    assert 0 < separate < LEVELS


@pytest.mark.filterwarnings("ignore:Only one sample available")
def test_a_single_cell_of_a_class_is_enough_for_a_level_of_its_own_direction(solved: Callable[..., Case]) -> None:
    case = solved("train", QUICK, ("crescent",))
    rows, labels = case.rows[1].seen, np.zeros(len(case.rows[1].seen), dtype=np.int64)
    labels[3] = 1
    own = Moments(case.statistics.classes[1].pilot, classes=2)
    own.add(torch.from_numpy(rows).float(), labels=torch.from_numpy(labels))
    first, _, *others = case.statistics.classes
    head = case.plan.build_head()
    solution = solve_first_stage(replace(case.statistics, classes=[first, own, *others]), STRENGTHS, head)
    assert not any(line.startswith("discriminant_level1:") for line in solution.remarks)
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=STRENGTHS.shrinkage).fit(rows, labels)
    _close(head.classifier(torch.from_numpy(rows).float()[None], 1)[0], _log_odds(reference, rows))


def test_equal_covariances_change_the_direction_and_keep_the_true_shares_in_the_bias(
    solved: Callable[..., Case],
) -> None:
    config = replace(QUICK, directions="shared", covariance="equal")
    case = solved("train", config, ("crescent",))
    seen, labels = (np.concatenate([getattr(rows, name) for rows in case.rows]) for name in ("seen", "labels"))
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=STRENGTHS.shrinkage, priors=[0.5, 0.5])
    wanted = _log_odds(reference.fit(seen, labels), seen) + np.log(labels.mean() / (1 - labels.mean()))
    inputs = torch.from_numpy(seen).float()[None]
    logits = case.head.classifier(inputs, 0)[0]
    _close(logits, wanted)
    shared = solved("train", replace(QUICK, directions="shared"), ("crescent",)).head.classifier(inputs, 0)[0]
    assert not torch.allclose(logits, shared, rtol=0.05)


def test_a_mixture_compares_densities_of_scipy_s_gaussians(solved: Callable[..., Case]) -> None:
    case = solved("train", replace(QUICK, directions="shared", classifier="gmm"), ("crescent", "cross"))
    cells = sum(len(rows.labels) for rows in case.rows)
    probe = np.concatenate([rows.seen for rows in case.rows])[::7]
    classes = []
    for label in range(3):
        densities = []
        for rows in case.rows:
            own = rows.seen[rows.labels == label]
            if not len(own):
                continue
            size = own.shape[1]
            covariance = np.cov(own.T, bias=True)
            strength = max(STRENGTHS.shrinkage, min(1.0, size / len(own)) / 2)
            shrunk = (1 - strength) * covariance + strength * np.trace(covariance) / size * np.eye(size)
            gaussian = multivariate_normal(own.mean(axis=0), shrunk)
            densities.append(np.log(len(own) / cells) + gaussian.logpdf(probe))
        classes.append(logsumexp(densities, axis=0))
    wanted = np.stack([classes[1] - classes[0], classes[2] - classes[0]], axis=1)
    _close(case.head.classifier(torch.from_numpy(probe).float()[None], 0)[0], wanted)


def test_a_mixture_of_many_classes_is_refused_in_a_sentence(world: World, tmp_path: Path) -> None:
    train = world.cache("train")
    plan = make_plan(train, replace(QUICK, classifier="gmm"), silent)
    statistics = collect(train, plan, tmp_path / "statistics", 0, 2, silent)
    statistics.classes[0].weight += 1  # every class is there
    with pytest.raises(UserError, match="a Gaussian mixture needs a covariance for each class"):
        solve_first_stage(statistics, STRENGTHS, plan.build_head())


def test_a_class_without_a_cell_is_named(world: World, tmp_path: Path) -> None:
    train = world.cache("train")
    plan = make_plan(train, QUICK, silent)
    statistics = collect(train, plan, tmp_path / "statistics", 1, 2, silent)  # the one object of one image
    name = train.dataset.class_names[int(train.targets(1).labels[0])]
    with pytest.raises(UserError, match=r"no cell stands for an object of .*name other classes with --class") as caught:
        solve_first_stage(statistics, STRENGTHS, plan.build_head())
    named = str(caught.value).partition(" of ")[2].partition(";")[0].split(", ")
    assert named == [other for other in train.dataset.class_names if other != name]
