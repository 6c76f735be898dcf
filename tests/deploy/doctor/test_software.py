"""What is installed says what it can use; what does not start is a sentence and ends nothing."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from detheads.deploy.doctor import software
from detheads.deploy.engines.machine import Gpu
from detheads.foundation.errors import UserError


def test_what_is_here_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    found = software.examine()
    assert found.packages["onnxruntime"] == onnxruntime.__version__
    assert found.onnxruntime_providers == onnxruntime.get_available_providers()
    assert found.faults == []


@pytest.mark.parametrize("package", ["onnxruntime", "openvino", "av"])
def test_a_library_that_does_not_start_is_a_sentence(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(package)
    monkeypatch.setitem(sys.modules, package, None)
    found = software.examine()
    assert len(found.faults) == 1
    assert "install" in found.faults[0]
    shown = {"onnxruntime": found.onnxruntime_providers, "openvino": found.openvino_devices, "av": found.codecs}
    assert not shown[package]


def test_gpus_are_those_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [Gpu(0, "Orin", "SM87"), Gpu(1, "RTX 4090", "SM89")]

    def find(index: int) -> Gpu:
        if index < len(there):
            return there[index]
        raise UserError("no more")

    monkeypatch.setattr(software, "find_gpu", find)
    assert software.examine().gpus == ["Orin (SM87)", "RTX 4090 (SM89)"]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'NVIDIA H200, 143771 MiB'", ["NVIDIA H200, 143771 MiB"]),
        ("echo 'NVIDIA-SMI has failed'; exit 9", []),
    ],
    ids=["answers", "fails"],
)
def test_without_cuda_in_python_the_drivers_own_tool_is_asked(
    script: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(software, "installed", lambda package: None)
    assert software.examine().gpus == expected


def test_a_driver_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", 20)

    monkeypatch.setattr(software.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(software.subprocess, "run", hang)
    monkeypatch.setattr(software, "installed", lambda package: None)
    assert software.examine().gpus == []


def test_the_newest_cuda_of_the_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = ModuleType("cuda.bindings.runtime")
    runtime.cudaDriverGetVersion = lambda: (SimpleNamespace(name="cudaSuccess"), 13020)  # type: ignore[attr-defined]
    runtime.cudaGetDeviceCount = lambda: (SimpleNamespace(name="cudaErrorNoDevice"), 0)  # type: ignore[attr-defined]
    for name, module in {
        "cuda": ModuleType("cuda"),
        "cuda.bindings": ModuleType("b"),
        "cuda.bindings.runtime": runtime,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["cuda.bindings"].runtime = runtime  # type: ignore[attr-defined]
    assert software.examine().cuda == "13.2"


def test_libraries_of_the_system_are_found_by_their_names(tmp_path: Path) -> None:
    for name in ("usr/lib/aarch64-linux-gnu/libnvinfer.so.10.3.0", "usr/lib/aarch64-linux-gnu/libnvinfer.so.10"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert software.examine(tmp_path).tensorrt_libraries == ["10.3.0"]
