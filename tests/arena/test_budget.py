"""Budgets in steps and in minutes: the same for every head and seed, and for an arena that goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detheads.arena.budget import described, told
from detheads.arena.contest import Job, compete
from detheads.arena.leaderboard import facts
from detheads.arena.records import pace_path
from detheads.arena.run import choose, run_arena
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.training.config import TrainConfig
from tests.arena.by_hand import setting, write_arena
from tests.training.world import NARROW, World


def _job(world: World, folder: Path, **more: Any) -> Job:
    values = {"arena": folder, "head": "fcos", "options": NARROW["fcos"], "threads": 1, "training": {"batch": 5}}
    return Job(train=world.caches / "plain", val=world.caches / "val", **values | more)


def test_a_budget_in_steps_is_kept_to_the_step(world: World, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    job = _job(world, tmp_path, training={"batch": 5, "steps": 3})
    row = compete(job, lambda status: told.append((status.step, status.total_steps)))
    assert row.steps == 3
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_minutes_are_as_many_steps_as_fit_into_them_for_every_seed(world: World, tmp_path: Path) -> None:
    told: list[int] = []
    row = compete(_job(world, tmp_path, minutes=0.01, seeds=(0, 1)), lambda status: told.append(status.total_steps))
    pace = json.loads(pace_path(tmp_path, "fcos").read_text("utf-8"))
    assert row.steps == pace["steps"] == max(1, round(0.6 / pace["step_seconds"]))
    assert set(told) == {2 * pace["steps"]}


def test_minutes_that_were_measured_once_stay_as_many_steps(world: World, tmp_path: Path) -> None:
    atomic.write_json(pace_path(tmp_path, "fcos"), {"steps": 2, "step_seconds": 123.0})
    assert compete(_job(world, tmp_path, minutes=0.01)).steps == 2
    pace_path(tmp_path, "fcos").write_text('{"steps": 0, "step_seconds": 1}')
    with pytest.raises(UserError, match=r"fcos.json is damaged; delete it and the head's run"):
        compete(_job(world, tmp_path, minutes=0.01))


@pytest.mark.parametrize(
    ("before", "config", "minutes", "sentence"),
    [
        ({"epochs": 3}, TrainConfig(epochs=2), None, "was run with --epochs 3, now with --epochs 2"),
        ({"epochs": 12}, TrainConfig(steps=500), None, "was run with --epochs 12, now with --steps 500"),
        ({"minutes": 5.0}, TrainConfig(), 2.5, "was run with --minutes 5, now with --minutes 2.5"),
        ({"minutes": 5.0}, TrainConfig(steps=5), None, "was run with --minutes 5, now with --steps 5"),
    ],
    ids=["epochs", "steps", "minutes", "unit"],
)
def test_an_arena_does_not_go_on_under_another_budget(
    world: World, folder: Path, before: dict[str, Any], config: TrainConfig, minutes: float | None, sentence: str
) -> None:
    write_arena(folder, setting(world, training={**before, "batch": 5}))
    with pytest.raises(UserError, match=sentence):
        run_arena(choose("fcos"), world.caches / "train", world.caches / "val", folder, config, minutes=minutes)


def test_a_setting_names_the_budget_that_counts_and_no_other() -> None:
    training = {"epochs": 12, "steps": 500, "batch": 8}
    assert described(training, None) == {"steps": 500, "batch": 8}
    assert described({"epochs": 12, "batch": 8}, 2.5) == {"batch": 8, "minutes": 2.5}
    assert told({"epochs": 12, "batch": 8}) == "--epochs 12"
    assert "epochs" not in facts(setting(training=described(training, None)))["Budget"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--steps", 5, "--minutes", 1], "--steps and --minutes are budgets both"),
        (["--epochs", 5, "--steps", 5], "--epochs and --steps are budgets both"),
    ],
    ids=["steps and minutes", "epochs and steps"],
)
def test_two_budgets_are_one_sentence(
    options: list[object], sentence: str, world: World, folder: Path, detheads: Callable[..., Any]
) -> None:
    caches = ("--cache", world.caches / "train", "--val", world.caches / "val")
    refused = detheads("arena", "run", "--heads", "fcos", *caches, *options, "-o", folder)
    assert (refused.code, sentence in refused.err, folder.exists()) == (1, True, False), refused.err
