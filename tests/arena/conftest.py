from collections.abc import Iterator
from pathlib import Path

import pytest

from detheads.headkit import registry
from detheads.headkit.head_file import PACKAGE
from detheads.training.config import TrainConfig
from tests.training.world import World, make_world

BUDGET = TrainConfig(epochs=1, batch=5, lr=2e-3)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def own_heads() -> Iterator[None]:
    """Forgets the heads that a test has loaded from files."""
    import sys

    yield
    for module in [name for name in sys.modules if name.startswith(f"{PACKAGE}.")]:
        registry.forget(module.rpartition(".")[2])
        del sys.modules[module]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where an arena is made: a name with a space and an accent."""
    return tmp_path / "arène one"
