"""How fast and how warm the machine's processors are while something is measured, as far as it tells."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

MACHINE: Final = Path("/sys")
FALL: Final = 0.10
"""Share by which clocks may fall, or runs get slower, from the first quarter of a measurement to the last untold: a
shared machine changes its speed by some percent without any cause in the measurement."""
FEWEST: Final = 8
"""Values of which a first and a last quarter say something."""


@dataclass
class ClockWatch:
    """Clocks and temperatures, one value a look.

    Args:
        machine: Linux's ``/sys``, of whose processors the frequencies and of whose thermal zones the temperatures are
            read. NVIDIA's management library is asked for those of GPU 0, too, where it is installed
            (``detheads[gpu]``).
    """

    machine: Path = MACHINE
    megahertz: list[float] = field(default_factory=list)
    """Mean over the processors."""
    celsius: list[float] = field(default_factory=list)
    """The warmest zone."""
    gpu_megahertz: list[float] = field(default_factory=list)
    gpu_celsius: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        cpus = self.machine / "devices/system/cpu"
        self._frequencies = sorted(cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._zones = sorted((self.machine / "class/thermal").glob("thermal_zone[0-9]*/temp"))
        self._library, self._device = _first_gpu()

    def look(self) -> None:
        """Read what can be read."""
        if frequencies := list(_numbers(self._frequencies)):  # kHz
            self.megahertz.append(sum(frequencies) / len(frequencies) / 1000)
        if temperatures := list(_numbers(self._zones)):  # thousandths of a degree
            self.celsius.append(max(temperatures) / 1000)
        if self._library is not None:
            library, device = self._library, self._device
            self.gpu_megahertz.append(library.nvmlDeviceGetClockInfo(device, library.NVML_CLOCK_SM))
            self.gpu_celsius.append(library.nvmlDeviceGetTemperature(device, library.NVML_TEMPERATURE_GPU))

    def to_dict(self) -> dict[str, Any]:
        """Smallest, median and largest value of each; None for what this machine does not tell."""
        kinds = {
            "cpu_mhz": self.megahertz,
            "cpu_celsius": self.celsius,
            "gpu_mhz": self.gpu_megahertz,
            "gpu_celsius": self.gpu_celsius,
        }
        return {
            name: {"min": min(values), "median": median(values), "max": max(values)} if values else None
            for name, values in kinds.items()
        }

    def remarks(self) -> list[str]:
        """A sentence for each clock that fell."""
        found = []
        for what, values in (("the processors' clock", self.megahertz), ("the GPU's clock", self.gpu_megahertz)):
            if (change := drift(values)) is not None and change < -FALL:
                found.append(f"{what} fell by {-change:.0%} during the measurement; give a longer --pause, or cool it")
        return found


def drift(values: list[float]) -> float | None:
    """How much the median of the last quarter differs from that of the first, as a share; None for too few values."""
    quarter = len(values) // 4
    return median(values[-quarter:]) / median(values[:quarter]) - 1 if len(values) >= FEWEST else None


def _numbers(paths: Iterable[Path]) -> Iterable[float]:
    for path in paths:
        try:
            yield float(path.read_text("ascii"))
        except (OSError, ValueError):  # a zone that is switched off, a core that went offline
            continue


def _first_gpu() -> tuple[Any, Any]:
    """NVIDIA's management library and its first GPU; None where one of them is missing."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
    except Exception:  # not installed, no driver, no GPU: each its own kind of error
        return None, None
