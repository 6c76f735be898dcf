"""What a machine has is read from the files in which Linux tells it."""

import os
from pathlib import Path

import pytest

from detheads.deploy.doctor.machine import examine
from tests.deploy.doctor.planted import CONTAINER, EMPTY, JETSON, RASPBERRY, WORKSTATION, plant


def test_a_raspberry_is_recognised_with_its_camera_and_accelerator(tmp_path: Path) -> None:
    found = examine(plant(tmp_path, RASPBERRY), tmp_path)
    assert found.board == "Raspberry Pi 5 Model B Rev 1.0"
    assert found.features == ["NEON", "dot product", "FP16"]
    assert found.system == "Debian GNU/Linux 12 (bookworm)"
    assert (found.cameras, found.accelerators) == (1, ["a Hailo accelerator"])
    assert (found.nvidia_devices, found.nvidia_driver, found.jetpack) == (0, None, None)
    assert found.disk_free is not None and found.disk_free > 0


def test_a_jetson_tells_its_release(tmp_path: Path) -> None:
    found = examine(plant(tmp_path, JETSON))
    assert (found.board, found.jetpack) == ("NVIDIA Jetson Orin Nano Developer Kit", "R36.4.0")


def test_a_workstation_tells_its_driver_and_counts_graphics_processors_and_nothing_else(tmp_path: Path) -> None:
    found = examine(plant(tmp_path, WORKSTATION))
    assert found.processor == "Intel(R) Core(TM) Ultra 7"
    assert found.features == ["AVX", "AVX2", "FMA", "F16C", "AVX-VNNI"]
    assert (found.nvidia_driver, found.nvidia_devices, found.intel_devices) == ("580.65.06", 1, 1)
    assert found.accelerators == ["an NPU (Linux accel)"]


def test_a_container_tells_what_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    found = examine(plant(tmp_path, CONTAINER))
    assert found.cores_allowed == 1
    assert found.memory.total == 64_000_000 * 1024
    assert found.memory.allowed == 512 * 1024**2
    assert found.memory.free == 412 * 1024**2
    assert found.libc == "musl"


def test_a_system_without_any_of_these_files_is_examined_too(tmp_path: Path) -> None:
    found = examine(plant(tmp_path, EMPTY), tmp_path / "gone")
    assert (found.board, found.features, found.accelerators, found.cameras) == ("", [], [], 0)
    assert (found.memory.total, found.memory.allowed, found.memory.free) == (None, None, None)
    assert found.disk_free is None
    assert found.cores_allowed >= 1


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="reads Linux's files")
def test_this_machine_is_told_as_the_system_tells_it() -> None:
    found = examine()
    assert found.memory.total == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert found.memory.free is not None and found.memory.allowed is not None
    assert 0 < found.memory.free <= found.memory.allowed <= found.memory.total
    assert 1 <= found.cores_allowed <= found.cores == os.cpu_count()
