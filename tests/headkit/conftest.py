"""The parts of heads are tested on every head that is made of them."""

from tests.heads.conftest import build, entry

__all__ = ["build", "entry"]
