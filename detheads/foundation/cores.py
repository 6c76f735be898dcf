"""How many cores this process may use, and how many threads make sense on them. Torch-free."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from detheads.foundation.control_groups import MACHINE, groups, read
from detheads.foundation.errors import UserError

THREADS_A_CORE = 8
"""More only wait for each other; thousands end the process, or never end."""


def available_cores(root: Path = MACHINE) -> int:
    """Cores that this process may use: those it is bound to, or as many as its container's share of processor time
    keeps busy (a share of 1.5 cores counts as 2), at least 1.

    Args:
        root: where the files of Linux's control groups are looked for.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *(math.ceil(share) for share in _shares(root))]))


def fitting_threads(threads: int | None) -> int | None:
    """Threads for a library that counts the machine's cores by itself: as asked for; without that None, its own
    choice, but where this process may use fewer cores than there are, that many.

    Raises:
        UserError: when they are out of proportion (see :func:`check_threads`).
    """
    check_threads(threads)
    cores = available_cores()
    return cores if threads is None and cores < (os.cpu_count() or 1) else threads


def check_threads(threads: int | None) -> None:
    """Refuse more threads than make sense here; None stands for the libraries' own choice.

    Raises:
        UserError: when there are fewer than one or too many for the machine.
    """
    cores = os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= THREADS_A_CORE * cores:
        raise UserError(
            f"{threads} threads are not possible on this machine of {cores} cores; give 1 to {THREADS_A_CORE * cores}."
        )


def _shares(root: Path) -> Iterator[float]:
    """Cores' worth of processor time that this process's control group, and each one around it, allows.

    Version 2 writes ``cpu.max`` ("150000 100000", or "max 100000" for no limit), version 1 ``cpu.cfs_quota_us`` (-1 for
    no limit) and ``cpu.cfs_period_us`` (Linux, "Control Group v2" and "CFS Bandwidth Control").
    """
    for folder in groups(root, "cpu"):
        said = read(folder / "cpu.max") or " ".join(read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        quota, period = [*said.split(), "", ""][:2]
        if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
            yield int(quota) / int(period)
