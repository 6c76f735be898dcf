"""The seeds of all targets, made once."""

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
