"""What a machine allows, and the command that adds what is missing."""

from dataclasses import replace
from pathlib import Path

import pytest

from detheads.deploy.doctor import advice, machine
from detheads.deploy.doctor.software import PACKAGES, Software
from detheads.foundation import extras
from tests.deploy.doctor.planted import CONTAINER, JETSON, RASPBERRY, WORKSTATION, plant

BARE = Software(
    packages={"onnxruntime": None, **dict.fromkeys(PACKAGES)},
    onnxruntime_providers=[],
    openvino_devices={},
    gpus=[],
    cuda=None,
    tensorrt_libraries=[],
    codecs=[],
    faults=[],
)
CPU = replace(
    BARE,
    packages={**BARE.packages, "onnxruntime": "1.32.0"},
    onnxruntime_providers=["CPUExecutionProvider"],
)


def able(what: str, files: dict[str, str], software: Software, root: Path) -> advice.Ability:
    found = advice.abilities(machine.examine(plant(root, files)), software)
    return next(each for each in found if each.what == what)


@pytest.mark.parametrize(
    ("what", "files", "software", "yes", "how", "command"),
    [
        ("run bundles", RASPBERRY, BARE, False, "no ONNX Runtime", "pip install 'detheads[cpu]'"),
        ("run bundles", RASPBERRY, CPU, True, "ONNX Runtime 1.32.0", ""),
        ("run bundles", RASPBERRY, replace(BARE, openvino_devices={"CPU": "x"}), True, "--backend openvino", ""),
        ("run on an NVIDIA GPU", RASPBERRY, CPU, False, "no NVIDIA GPU", ""),
        (
            "run on an NVIDIA GPU",
            {key: text for key, text in WORKSTATION.items() if "driver" not in key},
            CPU,
            False,
            "without its driver",
            "sudo apt-get install nvidia-driver-580",
        ),
        (
            "run on an NVIDIA GPU",
            WORKSTATION,
            replace(CPU, gpus=["RTX 4090"]),
            False,
            "no software",
            "pip uninstall -y onnxruntime && pip install 'detheads[gpu]'",
        ),
        (
            "run on an NVIDIA GPU",
            WORKSTATION,
            replace(CPU, gpus=["RTX 4090"], onnxruntime_providers=["CUDAExecutionProvider"]),
            True,
            "RTX 4090: ONNX Runtime's CUDAExecutionProvider",
            "",
        ),
        (
            "run on an Intel GPU or NPU",
            WORKSTATION,
            CPU,
            False,
            "OpenVINO is not installed",
            "pip install 'detheads[openvino]'",
        ),
        (
            "run on an Intel GPU or NPU",
            WORKSTATION,
            replace(CPU, openvino_devices={"CPU": "Core", "GPU.0": "Arc"}),
            True,
            "OpenVINO: GPU.0 (Arc)",
            "",
        ),
        ("run on an Intel GPU or NPU", RASPBERRY, CPU, False, "neither is here", ""),
        ("build engines", JETSON, CPU, False, "TensorRT of JetPack", "sudo apt-get install python3-libnvinfer"),
        (
            "build engines",
            JETSON,
            replace(CPU, gpus=["Orin"], packages={**CPU.packages, "tensorrt": "10.3.0"}),
            True,
            "TensorRT 10.3.0",
            "",
        ),
    ],
)
def test_what_is_missing_comes_with_the_command_that_adds_it(
    what: str, files: dict[str, str], software: Software, yes: bool, how: str, command: str, tmp_path: Path
) -> None:
    found = able(what, files, software, tmp_path)
    assert (found.able, found.command) == (yes, command)
    assert how in found.how


def test_an_extra_says_which_packages_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_installed", lambda name: name != "uvicorn")
    found = able("serve over HTTP", RASPBERRY, CPU, tmp_path)
    assert (found.able, found.how, found.command) == (False, "lacks uvicorn", "pip install 'detheads[serve]'")
    assert able("sign bundles", RASPBERRY, CPU, tmp_path).able


def test_a_source_tree_without_metadata_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_extras", dict)
    assert "not installed as a package" in able("train", RASPBERRY, CPU, tmp_path).how


@pytest.mark.parametrize(
    ("files", "architecture", "said"),
    [
        (CONTAINER, "x86_64", "536.9 MB of 65.5 GB memory are allowed here"),
        (CONTAINER, "x86_64", "Only 432.0 MB memory are free"),
        (CONTAINER, "x86_64", "no AVX2"),
        (CONTAINER, "x86_64", "no wheels for musl"),
        (RASPBERRY, "armv7l", "A 32-bit system (armv7l)"),
        (JETSON, "aarch64", "The system has TensorRT 10.3.0, which this Python does not see"),
    ],
)
def test_what_would_surprise_is_said(
    files: dict[str, str], architecture: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: architecture)
    found = machine.examine(plant(tmp_path, files))
    software = replace(CPU, tensorrt_libraries=["10.3.0"] if files is JETSON else [])
    assert any(sentence.startswith(said) or said in sentence for sentence in advice.remarks(found, software))


def test_a_sound_machine_is_told_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    found = machine.examine(plant(tmp_path, RASPBERRY), tmp_path)
    assert advice.remarks(replace(found, libc="glibc 2.36", disk_free=10**11), CPU) == []
