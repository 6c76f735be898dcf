"""How much memory there is, and how much of it this process may use. Torch-free."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from detheads.foundation.control_groups import MACHINE, groups, read

UNLIMITED = 1 << 60
"""Version 1 of control groups writes nearly 2^63 where there is no limit."""


@dataclass(frozen=True)
class Memory:
    """In bytes; None where the system does not tell.

    Attributes:
        total: of the machine.
        allowed: of it, what this process's container may use.
        free: what may be taken now without anything being swapped out.
        swap: of the machine.
    """

    total: int | None
    allowed: int | None
    free: int | None
    swap: int | None


def available_memory(root: Path = MACHINE) -> Memory:
    """What Linux says in ``/proc/meminfo`` and in the control groups of this process.

    Args:
        root: where those files are looked for.
    """
    said = {}
    for line in read(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if (kilobytes := value.split()[:1]) and kilobytes[0].isdecimal():
            said[name] = 1024 * int(kilobytes[0])
    total, free = said.get("MemTotal"), said.get("MemAvailable")
    limits = list(_limits(root))
    allowed = min((limit for limit in (total, *(limit for limit, _ in limits)) if limit is not None), default=None)
    free = min((left for left in (free, *(limit - used for limit, used in limits)) if left is not None), default=None)
    return Memory(total, allowed, None if free is None else max(0, free), said.get("SwapTotal"))


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use of each control group that has a limit: ``memory.max`` and ``memory.current`` in version 2,
    ``memory.limit_in_bytes`` and ``memory.usage_in_bytes`` in version 1."""
    for folder in groups(root, "memory"):
        for limit_name, used_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = read(folder / limit_name).strip(), read(folder / used_name).strip()
            if limit.isdecimal() and int(limit) < UNLIMITED:
                yield int(limit), int(used) if used.isdecimal() else 0
