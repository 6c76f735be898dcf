"""``detheads recipe`` and ``detheads train --recipe`` as a user types them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detheads.data.scenes import generate
from detheads.training.recipes.recipe import library

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    generate(folder, 3, 2, size=64, seed=1)
    return folder


def test_what_is_listed_can_be_shown_and_what_is_shown_can_be_read(detheads: Run, tmp_path: Path) -> None:
    listed = json.loads(detheads("recipe", "list", "--json").out)
    assert [recipe["name"] for recipe in listed] == list(library())
    shown = detheads("recipe", "show", "coco_640_fcos")
    (tmp_path / "coco_640_fcos.toml").write_text(shown.out, encoding="utf-8")
    again = detheads("recipe", "show", tmp_path / "coco_640_fcos.toml")
    assert (again.code, again.out) == (0, shown.out)


MISTAKES = {
    ("--recipe", "coco_640_fcso"): "Did you mean 'coco_640_fcos'?",
    ("--recipe", "coco_768_split_tower"): "detheads text embed --data DATASET --model ViT-L-14",
    ("slim_fcos", "--recipe", "coco_640_fcos"): "trains fcos, not slim_fcos",
    ("--recipe", "coco_640_fcos", "--extend", "1"): "--extend is of a run without a recipe",
    ("--recipe", "coco_640_fcos", "--batch", "0"): "stage train: batch must be at least 1",
    (): "name a head",
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda words: " ".join(words) or "nothing")
def test_a_mistake_ends_in_one_sentence_and_leaves_nothing(
    mistake: tuple[str, ...], detheads: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detheads.cli.train.require_caches", lambda *folders: None)
    refused = detheads("train", *mistake, "--cache", "none", "--val", "none", "-o", tmp_path / "run")
    assert (refused.code, MISTAKES[mistake] in refused.err) == (1, True)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_tells_all_that_is_missing_and_does_nothing(detheads: Run, scenes: Path, tmp_path: Path) -> None:
    (scenes / "train" / sorted(path.name for path in (scenes / "train").iterdir())[0]).rename(scenes / "aside")
    line = ("recipe", "run", "coco_640_fcos", "--data", scenes, "--train-split", "train", "--val-split", "val")
    options = ("--weights", tmp_path / "none.pth", "-o", tmp_path / "out")
    answer = detheads(*line, *options, "--dry-run", "--json")
    (scenes / "aside").unlink()
    assert answer.code == 1
    told = json.loads(answer.out)
    assert len(told["faults"]) == 2
    assert "none.pth does not exist" in told["faults"][0]
    assert "cannot be used: " in told["faults"][1]
    assert told["images"] == [2, 2]
    assert [command["command"].split()[1] for command in told["commands"]] == [
        *("cache", "cache", "train", "eval", "eval", "export", "verify")
    ]
    assert detheads(*line, *options).code == 1
    assert not (tmp_path / "out").exists()


def test_a_dry_run_reckons_with_coco_where_there_is_none(detheads: Run, tmp_path: Path) -> None:
    answer = detheads(
        "recipe", "run", "coco_640_fcos", "--data", tmp_path / "coco", "-o", tmp_path / "out", "--dry-run"
    )
    assert answer.code == 1
    assert "290.7 GB" in answer.out
    assert "coco does not exist" in answer.err
