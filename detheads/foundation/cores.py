"""How many cores there are, and how many threads make sense on them. Torch-free."""

import os

from detheads.foundation.errors import UserError

THREADS_A_CORE = 8
"""More only wait for each other; thousands end the process, or never end."""


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
