"""Estimators from moments are scikit-learn's own on all the rows, and their files give them back unchanged."""

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from torch import Tensor

from detheads.analytical.estimators import (
    Estimator,
    lda_from_moments,
    load_estimators,
    ridge_from_moments,
    ridge_path,
    save_estimators,
)
from detheads.analytical.moments import Moments
from detheads.foundation.errors import UserError

DIMENSIONS, ROWS, OUTPUTS = 24, 3000, 4


def _rows(classes: int = 2) -> tuple[Tensor, Tensor]:
    """Correlated float64 rows far from zero; four in five are of class 0."""
    generator = torch.Generator().manual_seed(classes)
    mixing = torch.randn(DIMENSIONS, DIMENSIONS, generator=generator, dtype=torch.float64)
    rows = torch.randn(ROWS, DIMENSIONS, generator=generator, dtype=torch.float64) @ mixing
    labels = torch.randint(0, classes, (ROWS,), generator=generator)
    labels[: ROWS * 4 // 5] = 0
    apart = torch.randn(classes, DIMENSIONS, generator=generator, dtype=torch.float64)
    return rows * (1 + 0.2 * labels[:, None]) + apart[labels] + 10, labels


def _targets(rows: Tensor) -> Tensor:
    noise = torch.randn(len(rows), OUTPUTS, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return rows[:, :OUTPUTS] - rows[:, OUTPUTS : 2 * OUTPUTS] + 3 * noise + 5


def _weights() -> Tensor:
    return torch.randint(0, 4, (ROWS,), generator=torch.Generator().manual_seed(5)).double()


def _class_moments(rows: Tensor, labels: Tensor, weights: Tensor | None = None, pooled: bool = False) -> Moments:
    moments = Moments(rows[:50].mean(0).float(), classes=int(labels.max()) + 1, pooled=pooled)
    for part in torch.arange(len(rows)).split(700):
        moments.add(rows[part], labels=labels[part], weights=None if weights is None else weights[part])
    return moments


def _ridge_moments(rows: Tensor, targets: Tensor, weights: Tensor | None = None) -> Moments:
    moments = Moments(rows[:50].mean(0).float(), targets=targets.shape[1])
    for part in torch.arange(len(rows)).split(700):
        moments.add(rows[part], targets=targets[part], weights=None if weights is None else weights[part])
    return moments


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("weighted", [False, True], ids=["rows once", "rows repeated"])
@pytest.mark.parametrize("priors", [None, "even"])
@pytest.mark.parametrize("shrinkage", [None, 0.1, 1.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_lda_equals_scikit_learn_on_all_rows(
    classes: int, shrinkage: float | None, priors: str | None, weighted: bool
) -> None:
    rows, labels = _rows(classes)
    shares = None if priors is None else torch.full((classes,), 1 / classes, dtype=torch.float64)
    fitted = lda_from_moments(
        _class_moments(rows, labels, _weights() if weighted else None), shrinkage=shrinkage, priors=shares
    )
    repeats = _weights().long() if weighted else torch.ones(ROWS, dtype=torch.long)
    full = LinearDiscriminantAnalysis(
        solver="lsqr", shrinkage=shrinkage, priors=None if shares is None else shares.numpy()
    ).fit(rows.repeat_interleave(repeats, 0).numpy(), labels.repeat_interleave(repeats).numpy())
    assert type(fitted) is LinearDiscriminantAnalysis
    assert _relative(fitted.coef_, full.coef_) < 1e-8
    assert _relative(fitted.intercept_, full.intercept_) < 1e-8
    assert _relative(fitted.covariance_, full.covariance_) < 1e-8
    assert _relative(fitted.decision_function(rows), full.decision_function(rows)) < 1e-8
    np.testing.assert_allclose(fitted.predict_proba(rows), full.predict_proba(rows), atol=1e-8)
    np.testing.assert_array_equal(fitted.predict(rows), full.predict(rows))


@pytest.mark.parametrize("shrinkage", [None, 0.1])
@pytest.mark.parametrize("classes", [2, 5])
def test_lda_from_one_pooled_covariance_equals_scikit_learn_too(classes: int, shrinkage: float | None) -> None:
    rows, labels = _rows(classes)
    fitted = lda_from_moments(_class_moments(rows, labels, pooled=True), shrinkage=shrinkage)
    full = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(rows.numpy(), labels.numpy())
    assert _relative(fitted.coef_, full.coef_) < 1e-8
    assert _relative(fitted.decision_function(rows), full.decision_function(rows)) < 1e-8


def test_a_pooled_covariance_stays_the_same_under_other_priors() -> None:
    moments = _class_moments(*_rows(5), pooled=True)
    shares, priors = lda_from_moments(moments), torch.tensor([1.0, 2.0, 3.0, 4.0, 0.5])
    reweighted = lda_from_moments(moments, priors=priors)
    assert _relative(reweighted.covariance_, shares.covariance_) < 1e-10
    assert _relative(reweighted.coef_, shares.coef_) < 1e-8
    np.testing.assert_allclose(reweighted.priors_, priors / priors.sum())


def test_a_class_of_fewer_rows_than_dimensions_is_no_obstacle_beside_a_large_one() -> None:
    rows, labels = _rows()
    labels = (torch.arange(ROWS) >= ROWS - 5).long()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = lda_from_moments(_class_moments(rows, labels))
    full = LinearDiscriminantAnalysis(solver="lsqr").fit(rows.numpy(), labels.numpy())
    assert _relative(fitted.coef_, full.coef_) < 1e-8


@pytest.mark.parametrize("weighted", [False, True], ids=["rows once", "rows weighted"])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 1e4, [0.0, 1.0, 10.0, 1e5]], ids=str)
def test_ridge_equals_scikit_learn_on_all_rows(alpha: float | list[float], weighted: bool) -> None:
    rows, weights = _rows()[0], _weights() + 0.3 if weighted else None
    targets = _targets(rows)
    fitted = ridge_from_moments(_ridge_moments(rows, targets, weights), alpha)
    full = Ridge(alpha=alpha).fit(rows.numpy(), targets.numpy(), None if weights is None else weights.numpy())
    assert type(fitted) is Ridge
    assert np.array_equal(fitted.alpha, alpha)
    assert _relative(fitted.coef_, full.coef_) < 1e-8
    assert _relative(fitted.intercept_, full.intercept_) < 1e-8
    assert _relative(fitted.predict(rows), full.predict(rows)) < 1e-8


@pytest.mark.parametrize("outputs", [1, OUTPUTS])
def test_a_sweep_equals_separate_fits_and_tells_r2_and_degrees_of_freedom(outputs: int) -> None:
    rows, weights = _rows()[0], _weights()
    targets = _targets(rows)[:, :outputs]
    moments, alphas = _ridge_moments(rows, targets, weights), [0.0, 0.1, 10.0, 1e3, 1e9]
    points = ridge_path(moments, alphas)
    assert [point.alpha for point in points] == alphas
    centred = (rows - moments.mean()[0]) * weights.sqrt()[:, None]
    for point in points:
        alone = ridge_from_moments(moments, point.alpha)
        np.testing.assert_array_equal(point.estimator.coef_, alone.coef_)
        np.testing.assert_array_equal(point.estimator.intercept_, alone.intercept_)
        expected = r2_score(targets, alone.predict(rows), sample_weight=weights, multioutput="raw_values")
        np.testing.assert_allclose(point.r2, expected, atol=1e-9)
        hat = torch.linalg.solve(centred.T @ centred + point.alpha * torch.eye(DIMENSIONS), centred.T @ centred)
        assert point.degrees_of_freedom == pytest.approx(float(hat.trace()), rel=1e-8)


def test_a_target_that_never_varies_is_predicted_exactly() -> None:
    rows = _rows()[0]
    targets = torch.stack([torch.full((ROWS,), 0.1, dtype=torch.float64), _targets(rows)[:, 0]], 1)
    (point,) = ridge_path(_ridge_moments(rows, targets), [1.0])
    np.testing.assert_allclose(point.estimator.predict(rows)[:, 0], 0.1)
    assert point.r2[0] == pytest.approx(1)


def _constant_channel(rows: Tensor) -> Tensor:
    rows[:, 3] = 7.25
    return rows


def _twice_the_same_channel(rows: Tensor) -> Tensor:
    rows[:, 3] = rows[:, 4]
    return rows


def _few(rows: Tensor) -> Tensor:
    return rows[-10:]


def _all_alike(rows: Tensor) -> Tensor:
    return torch.ones_like(rows)


SINGULAR = [_constant_channel, _twice_the_same_channel, _few, _all_alike]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("spoil", SINGULAR)
def test_a_singular_covariance_gives_a_finite_answer_and_one_warning(
    spoil: Callable[[Tensor], Tensor], pooled: bool, dtype: torch.dtype
) -> None:
    rows = spoil(_rows()[0]).to(dtype)
    labels = _rows()[1][-len(rows) :]
    assert labels.unique().tolist() == [0, 1]
    with pytest.warns(UserWarning, match="covariance within the classes is singular") as caught:
        fitted = lda_from_moments(_class_moments(rows, labels, pooled=pooled))
    assert len(caught) == 1
    assert Path(caught[0].filename) == Path(__file__)
    assert np.isfinite(fitted.coef_).all()
    assert np.abs(fitted.coef_).max() < 1e7
    assert np.isfinite(fitted.predict_proba(rows)).all()


@pytest.mark.parametrize("spoil", [_constant_channel, _twice_the_same_channel])
def test_shrinkage_makes_a_singular_covariance_an_ordinary_one(spoil: Callable[[Tensor], Tensor]) -> None:
    rows, labels = spoil(_rows()[0]), _rows()[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = lda_from_moments(_class_moments(rows, labels), shrinkage=0.1)
    full = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(rows.numpy(), labels.numpy())
    assert _relative(fitted.decision_function(rows), full.decision_function(rows)) < 1e-8


def test_a_constant_channel_changes_no_decision() -> None:
    rows, labels = _rows()
    spoilt = torch.cat([rows, torch.full((ROWS, 1), 7.25, dtype=torch.float64)], 1)
    with pytest.warns(UserWarning, match="singular"):
        fitted = lda_from_moments(_class_moments(spoilt, labels))
    without = lda_from_moments(_class_moments(rows, labels))
    assert fitted.coef_[0, -1] == pytest.approx(0, abs=1e-6)
    assert _relative(fitted.decision_function(spoilt), without.decision_function(rows)) < 1e-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("spoil", SINGULAR)
def test_a_singular_ridge_problem_without_penalty_gives_a_finite_answer_and_one_warning(
    spoil: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    rows = spoil(_rows()[0]).to(dtype)
    targets = _targets(_rows()[0])[-len(rows) :]
    with pytest.warns(UserWarning, match="Gram matrix is singular") as caught:
        fitted = ridge_from_moments(_ridge_moments(rows, targets), 0.0)
    assert len(caught) == 1
    assert Path(caught[0].filename) == Path(__file__)
    assert fitted.alpha > 0
    centred = (rows - rows.mean(0)).double()
    least_norm = torch.linalg.pinv(centred, rtol=1e-4) @ (targets - targets.mean(0))
    expected = centred @ least_norm + targets.mean(0)
    assert _relative(fitted.predict(rows.double()), expected.numpy()) < (1e-6 if dtype == torch.float64 else 1e-3)


@pytest.mark.parametrize("spoil", SINGULAR)
def test_a_penalty_makes_a_singular_ridge_problem_an_ordinary_one(spoil: Callable[[Tensor], Tensor]) -> None:
    rows = spoil(_rows()[0])
    targets = _targets(_rows()[0])[-len(rows) :]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = ridge_from_moments(_ridge_moments(rows, targets), 1.0)
    full = Ridge(alpha=1.0).fit(rows.numpy(), targets.numpy())
    assert _relative(fitted.predict(rows), full.predict(rows)) < 1e-8


def test_an_empty_class_is_named() -> None:
    rows, labels = _rows(3)
    for pooled in (False, True):
        with pytest.raises(ValueError, match="class 1 of 3 has no rows"):
            lda_from_moments(_class_moments(rows[labels != 1], labels[labels != 1], pooled=pooled))


def test_a_ridge_problem_without_rows_says_so() -> None:
    with pytest.raises(ValueError, match="no rows of positive weight"):
        ridge_from_moments(Moments(torch.zeros(DIMENSIONS), targets=OUTPUTS), 1.0)


def test_one_class_cannot_be_told_from_nothing() -> None:
    rows, labels = _rows()
    with pytest.raises(ValueError, match="at least two classes"):
        lda_from_moments(_class_moments(rows, torch.zeros_like(labels)))


@pytest.mark.parametrize("priors", [[1.0], [0.0, 0.0], [2.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_impossible_priors_are_refused(priors: Sequence[float]) -> None:
    with pytest.raises(ValueError, match="priors are 2 numbers"):
        lda_from_moments(_class_moments(*_rows()), priors=torch.tensor(priors))


@pytest.mark.parametrize("alpha", [-1.0, float("nan"), float("inf"), [1.0, 1.0, 1.0, -0.5]])
def test_impossible_penalties_are_refused(alpha: float | list[float]) -> None:
    rows = _rows()[0]
    with pytest.raises(ValueError, match="ridge penalty"):
        ridge_from_moments(_ridge_moments(rows, _targets(rows)), alpha)


@pytest.fixture(scope="module")
def fitted() -> dict[str, Estimator]:
    rows, labels = _rows(3)
    ridge = _ridge_moments(rows, _targets(rows))
    return {
        "two classes": lda_from_moments(_class_moments(*_rows(2)), shrinkage=0.1),
        "drei Klassen ß": lda_from_moments(_class_moments(rows, labels), priors=torch.tensor([0.2, 0.3, 0.5])),
        "ridge": ridge_from_moments(ridge, 2.5),
        "ridge by output": ridge_from_moments(ridge, [1.0, 2.0, 3.0, 0.1]),
        "one output": ridge_from_moments(_ridge_moments(rows, _targets(rows)[:, :1]), 1),
    }


@pytest.fixture
def saved(fitted: dict[str, Estimator], tmp_path: Path) -> Path:
    save_estimators(tmp_path / "estimators.safetensors", fitted)
    return tmp_path / "estimators.safetensors"


def _equal(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(np.all(one == other)) and np.shape(one) == np.shape(other)


def test_saved_estimators_come_back_unchanged(fitted: dict[str, Estimator], saved: Path) -> None:
    loaded = load_estimators(saved)
    rows = _rows(3)[0]
    assert list(loaded) == list(fitted)
    for name, estimator in fitted.items():
        again = loaded[name]
        assert type(again) is type(estimator)
        assert again.get_params().keys() == estimator.get_params().keys()
        assert vars(again).keys() == vars(estimator).keys()
        for key, value in vars(estimator).items():
            other = vars(again)[key]
            assert _equal(other, value.item() if isinstance(value, np.generic) else value), f"{name}.{key}"
        np.testing.assert_array_equal(again.predict(rows), estimator.predict(rows))
        if isinstance(estimator, LinearDiscriminantAnalysis):
            np.testing.assert_array_equal(again.decision_function(rows), estimator.decision_function(rows))
            np.testing.assert_array_equal(again.predict_proba(rows), estimator.predict_proba(rows))


def test_saving_twice_writes_the_same_bytes(saved: Path) -> None:
    before = saved.read_bytes()
    save_estimators(saved, load_estimators(saved))
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    rows = _rows()[0][:, :2]
    path = tmp_path / "estimators.safetensors"
    save_estimators(path, {"ridge": ridge_from_moments(_ridge_moments(rows, rows), 1.0)})
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"estimators\.safetensors (is|has no checksum).+\.$"):
            load_estimators(path)


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text(json.dumps({"kind": "Ridge"}))


def _other_tensors(path: Path) -> None:
    save_file({"coef": np.zeros(3)}, path)


def _other_metadata(path: Path) -> None:
    save_file({"coef": np.zeros(3)}, path, {"detheads.estimators": "0 {}"})


@pytest.mark.parametrize("spoil", [_truncated, _emptied, _text, _other_tensors, _other_metadata])
def test_a_foreign_or_damaged_file_is_refused_with_its_name(spoil: Callable[[Path], None], saved: Path) -> None:
    spoil(saved)
    with pytest.raises(
        UserError, match=r"estimators\.safetensors (is (damaged|another kind)|has no checksum).*; .+\.$"
    ):
        load_estimators(saved)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.safetensors does not exist"):
        load_estimators(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(("name", "estimator"), [("a/b", Ridge()), ("object", object())])
def test_what_cannot_be_read_back_is_not_written(name: str, estimator: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be saved"):
        save_estimators(tmp_path / "estimators.safetensors", {name: estimator})
    assert not list(tmp_path.iterdir())
