from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detheads.training import trainer as trainer_module
from detheads.training.config import TrainConfig
from detheads.training.trainer import Trainer
from tests.training.world import NARROW, World, make_world

CONFIG = {"epochs": 3, "batch": 4, "eval_every": 2, "lr": 2e-3}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def repeatable(one_thread: None) -> None:
    """Every run of a test sums alike."""


@pytest.fixture
def trainer(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trainer]:
    """A trainer on the small caches: ``trainer("fcos", run="a", epochs=2)``. It draws no plot, which takes longest."""
    monkeypatch.setattr(trainer_module, "plot_log", lambda run: None)

    def make(
        head: str = "fcos", *, run: str = "run", cache: str = "train", val: str = "val", **options: Any
    ) -> Trainer:
        embeddings, more = options.pop("class_embeddings", None), options.pop("head_options", {})
        narrow = options.pop("narrow", NARROW.get(head, {})) | more
        continued = {key: options.pop(key) for key in ("init", "extensions") if key in options}
        config = TrainConfig(**(CONFIG | options))
        caches = world.cache(cache), world.cache(val)
        return Trainer(head, narrow, *caches, tmp_path / run, config, class_embeddings=embeddings, **continued)

    return make
