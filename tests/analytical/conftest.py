"""The tiny world of the training tests, a further cache of narrow features, and closed forms that are solved fast."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detheads.analytical.config import Config
from detheads.analytical.fit import FitResult, fit
from detheads.backbones.backbone import load_backbone
from detheads.cache.builder import build_cache
from detheads.cache.reader import FeatureCache
from detheads.data import read_dataset
from tests.training.conftest import repeatable, world
from tests.training.world import HEIGHT, WIDTH, World

__all__ = ["repeatable", "world"]

QUICK = Config(view="context", directions="per_level", components=6)
"""54 numbers a cell: solved in a second."""


@pytest.fixture(scope="session")
def narrow(world: World) -> FeatureCache:
    """The training split with 64 channels, of a random transformer: frequency bands that are solved fast."""
    folder = world.caches / "narrow"
    encoder = load_backbone("timm:test_vit", (HEIGHT, WIDTH), random_weights=True)
    build_cache(read_dataset(world.data, "train"), encoder, folder)
    return FeatureCache(folder)


@pytest.fixture(scope="session")
def fitted(world: World, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    """The first stage for all classes, fitted and evaluated on the training images. Copy it before changing it."""
    train = world.cache("train")
    return fit(train, QUICK, tmp_path_factory.mktemp("fitted") / "a model, größer", val=train)


@pytest.fixture
def refused(detheads: Callable[..., Any]) -> Callable[..., str]:
    """The sentence that ``detheads ...`` ends with: one line, exit code 1 and nothing on standard output."""

    def sentence(*arguments: object) -> str:
        finished = detheads(*arguments)
        lines = [line for line in finished.err.splitlines() if line.startswith("error: ")]
        assert (finished.code, finished.result) == (1, ""), finished.err
        assert len(lines) == 1, finished.err
        assert finished.err.rstrip("\n").endswith(lines[0]), finished.err  # no further line, no traceback
        return lines[0].removeprefix("error: ")

    return sentence


def files(folder: Path) -> dict[str, bytes]:
    """What a folder holds, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
