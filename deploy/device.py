"""What machine this is, without its name: what a verdict on it is good for."""

import platform
from pathlib import Path
from typing import Final

BOARD: Final = Path("/proc/device-tree/model")
"""Where Linux says which board it runs on, such as a Jetson or a Raspberry Pi."""
PROCESSORS: Final = Path("/proc/cpuinfo")


def describe() -> str:
    """Board, processor, architecture and system, such as ``"Raspberry Pi 5 Model B, aarch64, Linux"``."""
    lines = (line.partition(":") for line in _read(PROCESSORS).splitlines())
    model = next((value.strip() for name, _, value in lines if name.strip() == "model name"), platform.processor())
    parts = (_read(BOARD), model, platform.machine(), platform.system())
    return ", ".join(dict.fromkeys(part for part in parts if part)) or "unknown"


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip("\0\n ")
    except OSError:
        return ""
