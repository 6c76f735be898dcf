from pathlib import Path

import pytest

from detheads.training.config import TrainConfig
from tests.training.world import World, make_world

BUDGET = TrainConfig(epochs=1, batch=5, lr=2e-3)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where an arena is made: a name with a space and an accent."""
    return tmp_path / "arène one"
