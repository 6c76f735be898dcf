"""Clocks and temperatures where the machine tells them, and a sentence where a clock falls."""

import sys
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from detheads.deploy.benchmark.clocks import ClockWatch, drift


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two processors, two thermal zones of which one is switched off, and no NVIDIA library."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (tmp_path / "class/thermal/thermal_zone1").mkdir(parents=True)
    (tmp_path / "class/thermal/thermal_zone1/temp").write_text("-")
    set_to(tmp_path, (2_000_000, 3_000_000), 61_500)
    return tmp_path


def set_to(machine: Path, kilohertz: tuple[int, ...], millidegrees: int) -> None:
    for number, value in enumerate(kilohertz):
        folder = machine / f"devices/system/cpu/cpu{number}/cpufreq"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scaling_cur_freq").write_text(f"{value}\n")
    zone = machine / "class/thermal/thermal_zone0"
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "temp").write_text(f"{millidegrees}\n")


def test_a_clock_that_falls_is_told(machine: Path) -> None:
    watch = ClockWatch(machine)
    for number in range(8):
        set_to(machine, (2_000_000, 3_000_000) if number < 4 else (1_500_000, 2_500_000), 61_500 + 1000 * number)
        watch.look()
    assert watch.to_dict()["cpu_mhz"] == {"min": 2000, "median": 2250, "max": 2500}
    assert watch.to_dict()["cpu_celsius"] == {"min": 61.5, "median": 65, "max": 68.5}
    assert watch.to_dict()["gpu_mhz"] is None
    assert watch.remarks() == [
        "the processors' clock fell by 20% during the measurement; give a longer --pause, or cool it"
    ]


def test_a_steady_clock_and_a_silent_machine_are_no_cause_for_a_remark(machine: Path, tmp_path: Path) -> None:
    for watch in (ClockWatch(machine), ClockWatch(tmp_path / "nothing")):
        for _ in range(8):
            watch.look()
        assert watch.remarks() == []
    assert set(watch.to_dict().values()) == {None}


def test_a_gpu_is_asked_through_nvidia_s_library(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pynvml")
    pynvml = pytest.importorskip("pynvml")
    library = create_autospec(pynvml)
    library.NVML_CLOCK_SM, library.NVML_TEMPERATURE_GPU = pynvml.NVML_CLOCK_SM, pynvml.NVML_TEMPERATURE_GPU
    library.nvmlDeviceGetClockInfo.side_effect = [1980] * 4 + [1200] * 4
    library.nvmlDeviceGetTemperature.return_value = 71
    monkeypatch.setitem(sys.modules, "pynvml", library)
    watch = ClockWatch(machine)
    for _ in range(8):
        watch.look()
    library.nvmlDeviceGetClockInfo.assert_called_with(library.nvmlDeviceGetHandleByIndex(0), pynvml.NVML_CLOCK_SM)
    assert watch.to_dict()["gpu_celsius"] == {"min": 71, "median": 71, "max": 71}
    assert watch.remarks() == ["the GPU's clock fell by 39% during the measurement; give a longer --pause, or cool it"]


def test_few_values_say_nothing_of_a_drift() -> None:
    assert drift([3.0, 1.0]) is None
    assert drift([2.0] * 6 + [3.0] * 2) == pytest.approx(0.5)
