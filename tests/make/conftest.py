"""Small datasets of generated scenes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from detheads.data.scenes import generate
from detheads.make.budget import parse_budget
from detheads.make.request import Request


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 + 4 scenes. Copy them before changing them."""
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    generate(folder, 12, 4, size=96, seed=3)
    return folder


@pytest.fixture
def without_val(scenes: Path, tmp_path: Path) -> Path:
    """The training scenes alone."""
    folder = tmp_path / "alone"
    shutil.copytree(scenes, folder)
    (folder / "annotations" / "instances_val.json").unlink()
    shutil.rmtree(folder / "val")
    return folder


@pytest.fixture
def request_for(tmp_path: Path) -> Callable[..., Request]:
    """A request for a dataset, with whatever else is given."""

    def build(data: Path, **options: object) -> Request:
        values = {"budget": parse_budget("10m"), **options}
        return Request(data=data, output=tmp_path / "it.detheads", work=tmp_path / "it.make", **values)  # type: ignore[arg-type]

    return build
