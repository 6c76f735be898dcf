"""The seeds of all targets, made once, and a folder where commands may write what they like."""

import os
from collections.abc import Iterator

import pytest

from tests.fuzz.guard import FOUND
from tests.fuzz.seeds import Seeds, make_seeds


@pytest.fixture(autouse=True)
def found() -> Iterator[None]:
    """Fail at the end of a long run with a case of each fault."""
    FOUND.clear()
    yield
    assert not FOUND, "\n\n".join(f"== {place}\n{case}" for place, case in FOUND.items())


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Seeds:
    return make_seeds(tmp_path_factory.mktemp("seeds"))


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A wild word may be the name of a file that a command makes, such as a key: not in the checkout."""
    before = os.getcwd()  # noqa: PTH109 - to go back to
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield
    os.chdir(before)
