"""What a pass gathers, and what is solved from it, equal scikit-learn's and SciPy's estimators on all the rows."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import permutations
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

from detheads.analytical import passes
from detheads.analytical.anchors import ANCHORS, encode, nearest_anchor
from detheads.analytical.assignment import assign_cells
from detheads.analytical.closed_form import ClosedForm
from detheads.analytical.config import Config
from detheads.analytical.fit import collect_part
from detheads.analytical.plan import Plan, make_plan, select_classes
from detheads.analytical.solve import Solution, Strengths, solve_first_stage
from detheads.analytical.statistics import Statistics, collect, load_statistics
from detheads.cache.reader import FeatureCache
from detheads.foundation.errors import UserError
from detheads.foundation.progress import silent
from detheads.headkit.blocks import join_main
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
    ends = np.cumsum([0, *head.cells_per_level])
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


# The first stage


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


# Parts


def _tensors(statistics: Statistics) -> dict[str, Tensor]:
    """All sums by name, with one pilot for all so that they compare."""
    sums = {}
    for level, moments in enumerate(statistics.classes):
        sums[f"classes{level}.weight"] = moments.weight
        sums[f"classes{level}.sum"] = moments.first + moments.weight[:, None] * moments.pilot.double()
    for kind, problems in (("anchors", statistics.anchors), ("boxes", statistics.boxes)):
        for index, problem in enumerate(problems):
            sums[f"{kind}{index}.weight"] = problem.weight
            if problem.total:
                sums[f"{kind}{index}.gram"], sums[f"{kind}{index}.cross"] = problem.scatter()[0], problem.cross()
    return sums


@pytest.mark.parametrize("config", [Config(), QUICK], ids=["bands", "context"])
def test_parts_merged_in_any_order_equal_one_pass(config: Config, narrow: FeatureCache, tmp_path: Path) -> None:
    parts = [tmp_path / f"part {index}" for index in (1, 2, 3)]
    for index, path in enumerate(parts):
        collect_part(narrow, config, path, (index + 1, 3), silent)
    plan = make_plan(narrow, config, silent)
    whole = collect(narrow, plan, tmp_path / "whole", 0, len(narrow), silent)
    assert [load_statistics(path).images for path in parts] == [3, 3, 4]
    wanted = _tensors(whole)
    for order in permutations(parts):
        merged = Statistics.empty(plan)
        for path in order:
            merged.merge(load_statistics(path))
        assert merged.parts == [(narrow.sha256, 0, 3), (narrow.sha256, 3, 6), (narrow.sha256, 6, 10)]
        assert (merged.images, merged.rows) == (whole.images, whole.rows)
        for name, value in _tensors(merged).items():
            torch.testing.assert_close(value, wanted[name].to(value.dtype), rtol=1e-4, atol=1e-4, msg=name)


def test_the_pass_does_not_depend_on_how_many_images_are_read_at_once(
    narrow: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(narrow, QUICK, silent)
    wanted = _tensors(collect(narrow, plan, tmp_path / "eights", 0, len(narrow), silent))
    monkeypatch.setattr(passes, "BATCH", 3)
    for name, value in _tensors(collect(narrow, plan, tmp_path / "threes", 0, len(narrow), silent)).items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-4, msg=name)


def test_what_is_saved_does_not_grow_with_the_images(narrow: FeatureCache, tmp_path: Path) -> None:
    plan = make_plan(narrow, QUICK, silent)
    for images in (1, 10):
        collect(narrow, plan, tmp_path / str(images), 0, images, silent)
    small, large = ((tmp_path / str(images)).stat().st_size for images in (1, 10))
    assert abs(large - small) < 64  # the number of images has another digit


# A pass that was killed


class KilledError(Exception):
    """Stands for a process that ends in the middle."""


@pytest.mark.parametrize("survives", [2, 6, 8])
def test_a_killed_pass_goes_on_and_gives_the_same_file(
    survives: int, narrow: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "BATCH", 2)
    monkeypatch.setattr(passes, "SAVE_SECONDS", -1.0)
    plan = make_plan(narrow, QUICK, silent)
    collect(narrow, plan, tmp_path / "whole", 0, 10, silent)

    def kill(step: str, done: int, total: int) -> None:
        if done > survives:
            raise KilledError

    with pytest.raises(KilledError):
        collect(narrow, plan, tmp_path / "killed", 0, 10, kill)
    assert load_statistics(tmp_path / "killed").parts == [(narrow.sha256, 0, survives)]
    steps: list[int] = []
    collect(narrow, plan, tmp_path / "killed", 0, 10, lambda step, done, total: steps.append(done))
    assert steps == list(range(survives + 2, 11, 2))
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_finished_pass_is_not_taken_again(narrow: FeatureCache, tmp_path: Path) -> None:
    plan = make_plan(narrow, QUICK, silent)
    collect(narrow, plan, tmp_path / "whole", 0, 10, silent)
    before = (tmp_path / "whole").read_bytes()
    steps: list[int] = []
    collect(narrow, plan, tmp_path / "whole", 0, 10, lambda step, done, total: steps.append(done))
    assert steps == []
    assert (tmp_path / "whole").read_bytes() == before


# Damaged files


@pytest.fixture(scope="module")
def sound(narrow: FeatureCache, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A statistics file."""
    path = tmp_path_factory.mktemp("sound") / "statistics"
    collect(narrow, make_plan(narrow, QUICK, silent), path, 0, 3, silent)
    return path.read_bytes()


def _one_clear_sentence(path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_statistics(path)
    text = str(caught.value)
    assert str(path) in text
    assert "damaged" in text
    assert "collect" in text
    assert "\n" not in text


def test_one_flipped_byte_anywhere_in_the_header_is_noticed(sound: bytes, tmp_path: Path) -> None:
    header = 8 + int.from_bytes(sound[:8], "little")
    path = tmp_path / "statistics"
    for place in range(0, header, max(1, header // 120)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x01]) + sound[place + 1 :])
        _one_clear_sentence(path)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.999])
def test_one_flipped_byte_in_the_sums_is_noticed(share: float, sound: bytes, tmp_path: Path) -> None:
    place = int(share * len(sound))
    path = tmp_path / "statistics"
    path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x40]) + sound[place + 1 :])
    _one_clear_sentence(path)


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, -1])
def test_a_truncated_file_is_noticed(kept: float, sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "statistics"
    path.write_bytes(sound[: int(kept * len(sound)) if isinstance(kept, float) else kept])
    _one_clear_sentence(path)


def test_a_missing_file_and_a_folder_are_told_apart_from_damage(narrow: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing does not exist; .*'detheads analytical collect'"):
        load_statistics(tmp_path / "nothing")
    with pytest.raises(UserError, match="is a folder"):
        collect(narrow, make_plan(narrow, QUICK, silent), tmp_path, 0, 3, silent)


# Channels that say nothing


def _with_channels(cache: FeatureCache, change: Callable[[Tensor], Tensor]) -> FeatureCache:
    """The cache with ``change`` applied to its only layer."""

    class Changed(FeatureCache):
        def features(self, *arguments: object, **options: object) -> dict[str, Tensor]:
            (item,) = super().features(*arguments, **options).items()  # type: ignore[arg-type]
            return {item[0]: change(item[1].clone())}

    return Changed(cache.folder)


def _constant(values: Tensor) -> Tensor:
    values[:, 5] = 3.7
    values[:, 9] = 0.0
    return values


def _copied(values: Tensor) -> Tensor:
    values[:, 5] = values[:, 6]
    return values


@pytest.mark.parametrize("change", [_constant, _copied])
def test_components_without_variance_are_left_out(change: Callable[[Tensor], Tensor], narrow: FeatureCache) -> None:
    """As many components as channels, some of which say nothing: dividing by their spread would blow up rounding."""
    cache = _with_channels(narrow, change)
    head = make_plan(cache, replace(QUICK, components=64), silent).build_head()
    joined = join_main(cache.features(range(10)), cache.feature_spec)
    rows = head.compress(joined).permute(1, 0, 2, 3).flatten(1)
    empty = {_constant: 2, _copied: 1}[change]
    torch.testing.assert_close(torch.cov(rows[:-empty]), torch.eye(64 - empty), atol=0.02, rtol=0)
    assert (rows[-empty:] == 0).all()
    noise = 1e-3 * torch.randn(joined.shape, generator=torch.Generator().manual_seed(0))
    assert (head.compress(joined + noise).permute(1, 0, 2, 3).flatten(1) - rows).abs().max() < 5


@pytest.mark.parametrize("change", [_constant, _copied])
@pytest.mark.parametrize(
    "config",
    [Config(), replace(QUICK, components=10)],
    ids=["bands", "context"],
)
@pytest.mark.parametrize("shrinkage", [0.0, 0.02])
def test_constant_and_dependent_channels_are_solved_with_a_remark_where_that_matters(
    config: Config, change: Callable[[Tensor], Tensor], shrinkage: float, narrow: FeatureCache, tmp_path: Path
) -> None:
    cache = _with_channels(narrow, change)
    plan = make_plan(cache, config, silent)
    statistics = collect(cache, plan, tmp_path / "statistics", 0, len(cache), silent)
    head = plan.build_head()
    solution = solve_first_stage(statistics, Strengths(shrinkage=shrinkage, alpha=10), head)
    # The map changes a little where the channels were constant: nothing may blow up.
    calm = cache.features(range(10))
    generator = torch.Generator().manual_seed(0)
    shaken = {name: values + 1e-3 * torch.randn(values.shape, generator=generator) for name, values in calm.items()}
    output = head(shaken)
    assert torch.isfinite(output.boxes).all()
    assert output.logits.abs().max() < 1e3
    assert (output.logits - head(calm).logits).abs().median() < 1
    singular = [line for line in solution.remarks if "singular" in line]
    if shrinkage == 0 and config.view == "bands":
        assert any(line.startswith("discriminant: the covariance within the classes") for line in singular)
    if shrinkage > 0:
        assert singular == []
