"""Which torch device a command uses, and how many cores there are."""

import os

import torch

from detheads.foundation.errors import UserError


def pick_device(name: str = "") -> torch.device:
    """The named device; when empty, the first GPU where there is one, else the CPU.

    Raises:
        UserError: when the named device is unknown or absent. There is no silent fallback.
    """
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"the device {name!r} cannot be used here ({str(error).splitlines()[0]}).") from None
    return device


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
