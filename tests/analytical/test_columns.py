"""What an estimator's columns are, against rows made by hand; rows of numpy; statistics of further caches."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detheads.analytical.closed_form import ClosedForm
from detheads.analytical.columns import describe_estimators, estimator_columns
from detheads.analytical.config import Config
from detheads.analytical.estimators import load_estimators
from detheads.analytical.fit import FitResult, collect_part, fit
from detheads.analytical.moments import Moments
from detheads.backbones.features import FeatureLayer, FeatureSpec
from detheads.cache.reader import FeatureCache
from detheads.foundation.errors import UserError
from detheads.foundation.progress import silent
from detheads.headkit import registry
from tests.analytical.conftest import QUICK
from tests.training.world import World

SPEC = FeatureSpec((FeatureLayer("fine", 3, 8), FeatureLayer("coarse", 4, 16)), ("fine", "coarse"), height=64, width=64)


def _head(config: Config) -> ClosedForm:
    head = registry.build("closed_form", SPEC, 2, asdict(config))
    assert isinstance(head, ClosedForm)
    return head


def test_each_column_of_a_neighbourhood_is_the_component_of_the_neighbour_that_it_is_called() -> None:
    head = _head(Config(levels=1, view="context", components=2))
    head.components[:] = 0
    head.components[12, 1] = 1.0  # the first channel of the coarse layer, behind 3 x 4 folded pixels of the fine one
    features = {"fine": torch.zeros(1, 3, 8, 8), "coarse": torch.zeros(1, 4, 4, 4)}
    features["coarse"][0, 0, 1, 2] = 1.0
    (rows,) = head.level_rows(features)
    names = estimator_columns(head, ["a", "b"], "discriminant")
    assert len(names) == rows.shape[2] == 18
    seen = {place: [names[column] for column in rows[0, place].nonzero()[:, 0]] for place in (6, 2, 5, 11)}
    assert seen == {
        6: ["principal component 1 of the cell"],
        2: ["principal component 1 of the neighbour below"],
        5: ["principal component 1 of the neighbour right"],
        11: ["principal component 1 of the neighbour above left"],
    }


def test_each_column_of_a_band_is_the_channel_that_it_is_called() -> None:
    head = _head(Config(levels=1))
    features = {"fine": torch.zeros(1, 3, 8, 8), "coarse": torch.zeros(1, 4, 4, 4)}
    features["fine"][0, 2, 1, 0] = 1.0  # row 1, column 0 of the first cell
    (rows,) = head.level_rows(features)
    names = estimator_columns(head, ["a", "b"], "box_anchor0")
    assert len(names) == rows.shape[2] + 2
    assert names[int(rows[0, 0].argmax())] == "channel 2 of fine at row 1, column 0 of its 2 x 2 pixels"
    assert names[12] == "channel 0 of coarse" and names[-2].startswith("x of the cell's centre")


def test_a_rounds_columns_are_counted_and_its_samples_lie_where_they_are_called() -> None:
    head = _head(Config(view="context", components=2, rounds=1, grid=3, hidden=4))
    names = estimator_columns(head, ["a", "b"], "round0_score")
    base = torch.zeros(1, 2, 4, 4)
    base[0, 1] = torch.arange(4.0)[:, None]  # grows downwards
    inputs = head.rounds.inputs(base, torch.tensor([[[16.0, 16.0, 48.0, 48.0]]]), torch.zeros(1, 1, 2))
    assert len(names) == head.rounds.round(0).expand(inputs).shape[2] == 2 * 9 + 2 + 7 + 4
    rows = {name: float(value) for name, value in zip(names, inputs[0, 0], strict=False) if "component 1" in name}
    column = [rows[f"principal component 1 at row {row}, column 1 of the points over the box"] for row in range(3)]
    assert column == sorted(column) and column[0] < column[2]
    assert names[18:20] == ["score of a so far", "score of b so far"]


def test_show_names_every_column_of_every_estimator(
    fitted: FitResult, detheads: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    estimators = load_estimators(fitted.model / "estimators.safetensors")
    described = {each.name: each for each in describe_estimators(str(fitted.model))}
    assert described.keys() == estimators.keys()
    for name, estimator in estimators.items():
        assert len(described[name].columns) == estimator.coef_.shape[-1]
        assert len(described[name].outputs) == len(np.atleast_1d(estimator.intercept_))
    finished = detheads("analytical", "show", fitted.model, "--json")
    assert finished.code == 0, finished.err
    answer = json.loads(finished.out)["estimators"]
    assert {name: len(each["columns"]) for name, each in answer.items()} == {
        name: each.coef_.shape[-1] for name, each in estimators.items()
    }
    assert "3 x 3 neighbours x 6 principal components" in detheads("analytical", "show", fitted.model).out


@pytest.mark.parametrize("make", [np.asarray, np.flip, lambda rows: np.array(rows).astype(np.float32)])
def test_moments_take_numpy_rows_like_tensors(make: Callable[[Any], Any]) -> None:
    random = np.random.default_rng(0)
    rows, labels, weights = make(random.normal(size=(50, 4))), random.integers(0, 2, 50), random.random(50)
    rows.flags.writeable = False
    by_numpy, by_torch = (Moments(random.normal(size=4) * 0, classes=2, targets=1) for _ in range(2))
    by_numpy.add(rows, labels=labels, targets=rows[:, :1], weights=weights)
    copies = torch.from_numpy(rows.copy())
    by_torch.add(copies, labels=torch.from_numpy(labels), targets=copies[:, :1], weights=torch.from_numpy(weights))
    for name, value in by_torch.tensors().items():
        assert torch.equal(value, by_numpy.tensors()[name])
    with pytest.raises(ValueError, match=r"rows are \[R, 4\]"):
        by_numpy.add(np.zeros((3, 5)))


def test_statistics_of_another_cache_join_a_fit_when_they_are_collected_like_the_first(
    world: World, tmp_path: Path
) -> None:
    train, val = world.cache("train"), world.cache("val")
    config = replace(QUICK, rounds=0)
    collect_part(train, config, tmp_path / "train", (1, 1), silent)
    collect_part(val, config, tmp_path / "alone", (1, 1), silent)
    collect_part(val, Config(), tmp_path / "like", (1, 1), silent, like=tmp_path / "train")
    with pytest.raises(UserError, match=r"collected with other anchors.*--like"):
        fit(train, config, tmp_path / "a", parts=[tmp_path / "train", tmp_path / "alone"])
    joined = fit(train, config, tmp_path / "b", parts=[tmp_path / "train", tmp_path / "like"])
    assert joined.images == len(train) + len(val)
    with pytest.raises(UserError, match="hold images none of the 10 of"):
        fit(train, config, tmp_path / "c", parts=[tmp_path / "like"])
    with pytest.raises(UserError, match="differs in its input size"):
        collect_part(FeatureCache(world.caches / "square"), config, tmp_path / "d", (1, 1), silent, like=tmp_path / "b")


def test_a_second_cache_is_refused_with_what_to_do(world: World, tmp_path: Path, refused: Callable[..., str]) -> None:
    for command in ("fit", "collect"):
        sentence = refused(
            "analytical",
            command,
            "--cache",
            world.caches / "train",
            "--cache",
            world.caches / "val",
            "-o",
            tmp_path / "m",
        )
        assert "--cache is given 2 times" in sentence and "--like" in sentence
    assert not (tmp_path / "m").exists()
