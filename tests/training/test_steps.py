"""A training of so many steps: it ends within an epoch, is evaluated there, and resumes to the same weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from detheads.foundation.errors import UserError
from detheads.training.checkpoint import checkpoint_path, load_tensors
from detheads.training.config import TrainConfig
from detheads.training.log import read_log
from detheads.training.status import Status
from detheads.training.trainer import Trainer
from tests.training.world import NARROW, World

STEPS = 5
"""Of two to an epoch (ten images, five a step): the third one is cut short."""
CONFIG = TrainConfig(batch=5, steps=STEPS, lr=2e-3)


def _trainer(world: World, run: Path, **more: Any) -> Trainer:
    return Trainer("fcos", NARROW["fcos"], world.cache("plain"), world.cache("val"), run, CONFIG, **more)


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("steps") / "run"
    _trainer(world, run).fit()
    return run


def test_it_ends_after_the_last_step_with_an_evaluation(run: Path) -> None:
    evaluated = [entry["step"] for entry in read_log(run) if "AP" in entry]
    assert evaluated == [2, 4, STEPS]
    assert TrainConfig(steps=STEPS).learning_rate(STEPS - 1, STEPS) < CONFIG.lr / 2


def test_an_interrupted_one_goes_on_to_the_same_weights(run: Path, world: World, tmp_path: Path) -> None:
    def interrupt(status: Status) -> None:
        if status.step == STEPS:  # in the epoch that is cut short
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _trainer(world, tmp_path / "run").fit(interrupt)
    _trainer(world, tmp_path / "run").fit()
    (_, once), (_, twice) = (load_tensors(checkpoint_path(folder, "last")) for folder in (run, tmp_path / "run"))
    assert once.keys() == twice.keys()
    assert all(torch.equal(once[name], twice[name]) for name in once)


def test_a_finished_one_is_left_as_it_is(run: Path, world: World) -> None:
    before = [(path.name, path.stat().st_mtime_ns) for path in sorted(run.glob("*.safetensors"))]
    steps: list[Status] = []
    again = _trainer(world, run).fit(steps.append)
    assert not steps and again.metrics["epoch"] <= 3
    assert [(path.name, path.stat().st_mtime_ns) for path in sorted(run.glob("*.safetensors"))] == before


def test_other_steps_and_further_epochs_are_refused(run: Path, world: World, tmp_path: Path) -> None:
    caches = world.cache("plain"), world.cache("val")
    with pytest.raises(UserError, match="was trained with --steps 5, now 6"):
        Trainer("fcos", NARROW["fcos"], *caches, run, TrainConfig(batch=5, steps=6, lr=2e-3))
    with pytest.raises(UserError, match="cannot be extended by epochs"):
        _trainer(world, tmp_path / "run", extensions=(2,))
    with pytest.raises(UserError, match="steps must be 0 or more"):
        TrainConfig(steps=-1)
