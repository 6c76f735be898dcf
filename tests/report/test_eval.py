"""``detheads eval`` of several runs side by side, of another tool's results, and of failures."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from detheads.evaluation.coco import evaluate
from detheads.report.evaluated import training_remarks
from detheads.training.checkpoint import load_checkpoint
from detheads.training.config import TrainConfig
from detheads.training.pictures import written
from detheads.training.trainer import Trainer
from tests.training.world import NARROW, World, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def runs(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One that learns for a moment, and one that does not."""
    folder = tmp_path_factory.mktemp("runs")
    for name, epochs in (("long", 12), ("short", 1)):
        config = TrainConfig(epochs=epochs, batch=5, lr=5e-3, eval_every=epochs, ema_decay=0.9)
        Trainer("fcos", NARROW["fcos"], world.cache("val"), world.cache("val"), folder / name, config).fit()
    return folder / "long", folder / "short"


def test_several_runs_stand_in_one_table_with_their_differences(
    runs: tuple[Path, Path], world: World, detheads: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = detheads("eval", *runs, "--cache", world.caches / "val", "--json")
    assert finished.code == 0, finished.err
    answer = json.loads(finished.out)
    long, short = answer["runs"]
    (same,) = answer["repeated"]  # of one head with the same options
    assert (same["head"], same["runs"]) == ("fcos", [str(run) for run in runs])
    aps = [long["AP"], short["AP"]]
    assert (same["AP"], same["spread"]) == (pytest.approx(fmean(aps)), pytest.approx(stdev(aps)))
    alone = json.loads(detheads("eval", runs[1], "--cache", world.caches / "val", "--json").out)
    assert (short["AP"], short["AP50"]) == (alone["AP"], alone["AP50"])
    assert long["difference"] is None and short["difference"] == pytest.approx(short["AP"] - long["AP"])
    low, high = short["interval"]
    assert low <= high <= 1 and long["parameters"] == short["parameters"] > 1000
    monkeypatch.setenv("COLUMNS", "250")
    table = detheads("eval", *runs, "--cache", world.caches / "val").out
    assert "95 % interval" in table and str(runs[0]) in table and "fcos, 2 runs: AP" in table
    twice = json.loads(detheads("eval", runs[1], runs[1], "--cache", world.caches / "val", "--json").out)
    assert twice["repeated"] == []


def test_figures_on_training_pictures_are_called_that(
    runs: tuple[Path, Path], world: World, detheads: Callable[..., Any]
) -> None:
    (remark,) = json.loads(detheads("eval", runs[1], "--cache", world.caches / "val", "--json").out)["remarks"]
    assert "holds the pictures that the head was trained on" in remark
    checkpoint = load_checkpoint(runs[1])
    assert training_remarks(checkpoint, world.cache("train")) == []
    digests = [image.sha256 for image in world.cache("train").manifest.images]
    some = replace(checkpoint, pictures=written(digests[:3]))
    (remark,) = training_remarks(some, world.cache("plain"))
    assert f"holds 3 pictures ({3 / len(digests):.0%}) that the head was trained on" in remark


def test_results_of_another_tool_are_evaluated_on_a_dataset(
    world: World, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    truth = world.annotations("val")
    names = {image["id"]: Path(image["file_name"]).stem for image in truth["images"]}
    results = [
        {"image_id": entry["image_id"], "category_id": entry["category_id"], "bbox": entry["bbox"], "score": 0.5}
        for entry in truth["annotations"][1:]
    ]
    expected = evaluate(truth, results)
    path = tmp_path / "results.json"
    for entries in (results, [entry | {"image_id": names[entry["image_id"]]} for entry in results]):
        path.write_text(json.dumps(entries))
        finished = detheads(
            "eval", "--detections", path, "--data", world.data, "--split", "val", "-o", tmp_path / "report", "--json"
        )
        assert finished.code == 0, finished.err
        assert json.loads(finished.out)["AP"] == pytest.approx(expected.AP)
        assert (tmp_path / "report" / "index.html").is_file()
    path.write_text(json.dumps([entry | {"bbox": [value / 128 for value in entry["bbox"]]} for entry in results]))
    finished = detheads("eval", "--detections", path, "--data", world.data, "--split", "val")
    assert finished.code == 0 and "shares of the picture" in finished.err
    path.write_text(json.dumps([entry | {"image_id": 1} for entry in results]))
    finished = detheads("eval", "--detections", path, "--data", world.data, "--split", "val")
    assert finished.code == 1 and "the ground truth lists no image_id 1 that a detection refers to" in finished.err


def test_failures_are_drawn_beside_the_truth(
    runs: tuple[Path, Path], world: World, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    options = ("--cache", world.caches / "val", "--failures", tmp_path / "f", "--data", world.data, "--json")
    finished = detheads("eval", runs[0], *options)
    assert finished.code == 0, finished.err
    answer = json.loads(finished.out)
    assert answer["failure_pictures"] == len(list((tmp_path / "f").glob("*.jpg"))) > 0
    assert answer["failures"] == str(tmp_path / "f")
