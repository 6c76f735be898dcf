"""Which of the processes that ``torchrun`` or ``accelerate launch`` started this one is; torch-free."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from detheads.foundation.errors import UserError


@dataclass(frozen=True)
class Launch:
    """A process among those that were started together, on one machine or several.

    Attributes:
        rank, count: its number among all of them.
        local_rank, local_count: its number among those of its machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1


def launched() -> Launch:
    """What the launcher says by the environment, as torch's ``env://`` has it; a single process without one.

    Raises:
        UserError: when it says something impossible.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    said = [os.environ.get(name, "") for name in names]
    if not said[0] or not said[1]:
        return Launch()
    said[2:] = said[2] or said[0], said[3] or said[1]
    if all(value.isdecimal() and len(value) < 8 for value in said):
        found = Launch(*map(int, said))
        if found.rank < found.count and found.local_rank < found.local_count <= found.count:
            return found
    values = ", ".join(f"{name}={value}" for name, value in zip(names, said, strict=True))
    raise UserError(f"the environment describes processes that cannot be ({values}); start them with torchrun.")


@contextmanager
def one_voice() -> Iterator[None]:
    """Let only one process of a machine say what all of them find wrong; the others end without a word."""
    try:
        yield
    except (UserError, ModuleNotFoundError):
        if launched().local_rank > 0:
            raise SystemExit(1) from None
        raise
