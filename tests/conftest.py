"""Shared fixtures: real photographs where they exist, and the command line as a function."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from detheads.foundation.text import visible

if TYPE_CHECKING:
    from tests.export.toy import Toy

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name bytes by their length: what a compressor made holds the time, and each worker of xdist makes its own."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.exists():
        pytest.skip(f"needs the development data folder {name!r} beside the checkout")
    return folder


@pytest.fixture(scope="session")
def photographs() -> Path:
    """Folder of real datasets: ``coco-person``, ``raccoon``, ``aquarium``, ``bccd``, ``coco128``."""
    return _shared("data")


@pytest.fixture(scope="session")
def conformance() -> Path:
    """Published pycocotools inputs and results."""
    return _shared("conformance")


@pytest.fixture(scope="session")
def vit_weights() -> Path:
    """A real pretrained ViT-S/14."""
    return _shared("backbones") / "vit_small_patch14_dinov2.focus.safetensors"


@pytest.fixture(scope="session")
def clip_embeddings() -> Path:
    """CLIP ViT-B/32 text embeddings of COCO's 80 class names."""
    return _shared("clip") / "coco80_vitb32_a+cname.npy"


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> "Toy":
    """A run of a real head with random weights, and pictures in which it finds something."""
    from tests.export.toy import MADE, Toy, make_toy

    place = tmp_path_factory.mktemp("toy")
    if MADE:
        shutil.copytree(MADE, place, dirs_exist_ok=True)
        return Toy(place / "run", place / "pictures of it")
    return make_toy(place)


@pytest.fixture(scope="session")
def bundle(toy: "Toy", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A verified bundle of the toy without an engine. Copy it before changing it."""
    from tests.export.toy import MADE, bundle_toy

    target = tmp_path_factory.mktemp("bundle") / "toy.detheads"
    if MADE:
        shutil.copytree(Path(MADE) / target.name, target)
    else:
        bundle_toy(toy, target)
    return target


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums of floats depend on the number of threads."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Finished:
    """What a command line returned and printed."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> str:
        """What was printed, without the JSON value of an error, which says the same as standard error."""
        if self.code == 0 or not self.out.startswith('{\n  "error":'):
            return self.out
        assert f"error: {visible(json.loads(self.out)['error'])}\n" in self.err
        return ""


@pytest.fixture
def detheads(capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """Run a command line in this process: ``detheads("data", "info", folder)``."""
    from detheads.cli.main import run

    def invoke(*arguments: object) -> Finished:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return invoke


@pytest.fixture
def own_heads() -> Iterator[None]:
    """Forgets the heads that a test has loaded from files."""
    import sys

    from detheads.headkit import registry
    from detheads.headkit.head_file import PACKAGE

    yield
    for module in [name for name in sys.modules if name.startswith(f"{PACKAGE}.")]:
        registry.forget(module.rpartition(".")[2])
        del sys.modules[module]
