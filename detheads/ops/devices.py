"""Which torch device a command uses, and how many threads torch does."""

import torch

from detheads.foundation.cores import check_threads
from detheads.foundation.errors import UserError


def pick_device(name: str = "") -> torch.device:
    """The named device; when empty, the first GPU where there is one, else the CPU.

    Raises:
        UserError: when the named device is unknown, absent or computes nothing. There is no silent fallback.
    """
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        computed = torch.ones(1, device=device) + 1
        if device.type == "meta" or computed.item() != 2:
            raise UserError(f"the device {name!r} computes nothing; give {_usable()}.")
    except UserError:
        raise
    except Exception as error:  # what torch raises for a device that is not there shares no base class but Exception
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the device {name!r} cannot be used here ({reason:.100}); give {_usable()}.") from None
    return device


def described(device: torch.device) -> str:
    """What computes there, for a reader of figures: ``"cpu, 2 threads"``, ``"cuda:0, NVIDIA H100 PCIe"``."""
    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"cpu, {threads} {'thread' if threads == 1 else 'threads'}" if device.type == "cpu" else str(device)


def use_threads(threads: int | None) -> None:
    """Let torch compute with so many CPU threads; None leaves its own choice.

    Raises:
        UserError: when this machine cannot run as many.
    """
    check_threads(threads)
    if threads is not None:
        torch.set_num_threads(threads)


def _usable() -> str:
    names = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    return " or ".join(names)
