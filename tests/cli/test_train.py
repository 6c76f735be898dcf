"""``detheads train`` and ``detheads eval`` as a user types them, in processes of their own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from detheads.evaluation.coco import NAMES
from tests.training.world import TRAIN, VAL, World, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def _process(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from detheads.cli.main import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_train_and_eval_print_one_json_object_and_progress_elsewhere(world: World, tmp_path: Path) -> None:
    """Real standard output, so that anything a library writes past Python's would be seen."""
    run = tmp_path / "a run with spaces, größer"
    line = ("-O", "width=16", "-O", "tower_blocks=1", "--epochs", 2, "--batch", 4, "--threads", 1, "--json")
    caches = ("--cache", world.caches / "train", "--val", world.caches / "val")
    trained = _process("train", "fcos", *caches, "-o", run, *line)
    assert trained.returncode == 0, trained.stderr
    answer = json.loads(trained.stdout)
    assert set(answer) == {
        *("run", "head", "parameters", "epochs", "best_epoch", "seconds", "validated_on_trained"),
        *NAMES,
    }
    assert (answer["run"], answer["head"], answer["epochs"]) == (str(run), "fcos", 2)
    assert "10 images, 6 steps on" in trained.stderr
    assert (run / "plot.png").stat().st_size > 5000

    evaluated = _process("eval", run, "--cache", world.caches / "val", "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    statistics = json.loads(evaluated.stdout)
    assert {name: statistics[name] for name in NAMES} == {name: answer[name] for name in NAMES}
    assert "detecting" in evaluated.stderr


def test_a_cache_without_flips_is_remarked_upon(world: World, tmp_path: Path) -> None:
    line = ("-O", "width=16", "-O", "tower_blocks=1", "--epochs", 1, "--threads", 1)
    caches = ("--cache", world.caches / "plain", "--val", world.caches / "val")
    trained = _process("train", "fcos", *caches, "-o", tmp_path / "run", *line)
    assert trained.returncode == 0, trained.stderr
    assert "build it with --flips" in trained.stderr
    assert f"{tmp_path / 'run'}: AP " in trained.stdout


def test_the_options_of_a_training_are_its_configuration(
    world: World, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    caches = ("--cache", world.caches / "plain", "--cache", world.caches / "val", "--val", world.caches / "val")
    line = ("train", "fcos", *caches, "-O", "width=16", "-O", "tower_blocks=1", "--epochs", 1, "--eval-every", 1)
    chosen = {"warmup_steps": 3, "clip_norm": 0.5, "flips": 0.0, "ema_decay": 0.9}
    options = [part for name, value in chosen.items() for part in (f"--{name.replace('_', '-')}", value)]
    trained = detheads(*line, *options, "-o", tmp_path / "run", "--json")
    assert trained.code == 0, trained.err
    assert f"{TRAIN + VAL} images" in trained.err
    assert "holds no mirrored images" not in trained.err  # none were asked for
    recorded = json.loads((tmp_path / "run" / "config.json").read_text("utf-8"))["training"]
    assert {name: recorded[name] for name in chosen} == chosen
    for option, said in (("--warmup-steps", "warmup_steps must be 0 or more"), ("--clip-norm", "must be positive")):
        refused = detheads(*line, option, -1, "-o", tmp_path / "other")
        assert (refused.code, said in refused.err) == (1, True)
        assert not (tmp_path / "other").exists()


def test_a_dry_run_tells_sizes_and_trains_nothing(
    world: World, tmp_path: Path, detheads: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = ("--cache", world.caches / "plain", "--val", world.caches / "val")
    line = ("train", "fcos", *caches, "-O", "width=16", "-O", "tower_blocks=1", "-o", tmp_path / "run", "--dry-run")
    told = json.loads(detheads(*line, "--epochs", 3, "--batch", 4, "--json").out)
    assert told["steps"] == 3 * 3
    assert told["bytes"] == 5 * 4 * told["parameters"]
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=1000))
    refused = detheads(*line)
    assert (refused.code, "has 1.0 kB free" in refused.err) == (1, True)
    assert not list(tmp_path.iterdir())
