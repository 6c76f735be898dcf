from pathlib import Path

import pytest

from tests.export.toy import THRESHOLDS, Toy, make_toy


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def bundle(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A verified bundle without an engine. Copy it before changing it."""
    from detheads.export.pipeline import Proof, export_run

    target = tmp_path_factory.mktemp("bundle") / "toy.detheads"
    result = export_run(toy.run, target, proof=Proof(toy.data), thresholds=THRESHOLDS, tensorrt=False)
    assert result.bundle == target, result.to_dict()
    return target
