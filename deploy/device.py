"""What machine this is, without its name: what a verdict on it is good for."""

import platform
from pathlib import Path

from detheads.foundation.control_groups import MACHINE, read


def describe() -> str:
    """Board, processor, architecture and system, such as ``"Raspberry Pi 5 Model B, aarch64, Linux"``."""
    parts = (board(), processor(), platform.machine(), platform.system())
    return ", ".join(dict.fromkeys(part for part in parts if part)) or "unknown"


def board(root: Path = MACHINE) -> str:
    """What Linux says which board this is, such as a Jetson or a Raspberry Pi; empty on machines without a device tree.

    Args:
        root: where the files of the system are looked for.
    """
    return read(root / "proc/device-tree/model").strip("\0\n ")


def processor(root: Path = MACHINE) -> str:
    """The model of the processor."""
    return processor_fields(root).get("model name") or platform.processor()


def processor_fields(root: Path = MACHINE) -> dict[str, str]:
    """What ``/proc/cpuinfo`` says of the first core, by name."""
    found: dict[str, str] = {}
    for line in read(root / "proc/cpuinfo").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip(), value.strip())
    return found
