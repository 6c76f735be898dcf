"""What a machine and its software allow, and the command that adds what is missing."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from detheads.deploy.doctor.machine import Machine
from detheads.deploy.doctor.software import Software
from detheads.foundation.atomic import sized
from detheads.foundation.extras import lacking

EXTRAS: Final = {
    "serve over HTTP": "serve",
    "videos, streams and cameras": "video",
    "serve Frigate": "frigate",
    "batches on Ray": "ray",
    "sign bundles": "sign",
    "other annotation formats": "formats",
    "train": "train",
    "export": "export",
}
"""What an extra allows; its own metadata says which packages it needs."""
GPU_PROVIDERS: Final = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")
LITTLE_MEMORY: Final = 512 * 10**6
"""Bytes; the runtime with a small graph takes 110 to 160 MB, and the system wants to live too."""
LITTLE_DISK: Final = 10**9
FAST_INT8: Final = {"AVX-VNNI", "AVX-512 VNNI", "AMX INT8", "dot product", "INT8 matrix product"}


@dataclass(frozen=True)
class Ability:
    """Something that may be done here, or not.

    Attributes:
        how: with what it is done, or why it is not.
        command: what adds it; empty where nothing is missing or no command helps.
    """

    what: str
    able: bool
    how: str
    command: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def abilities(machine: Machine, software: Software) -> list[Ability]:
    """What may be done here, from running a bundle to exporting one."""
    return [
        _run(software),
        _nvidia(machine, software),
        _intel(machine, software),
        _engines(machine, software),
        *(_extra(what, extra) for what, extra in EXTRAS.items()),
    ]


def remarks(machine: Machine, software: Software) -> list[str]:
    """A sentence for everything that stands in the way or would surprise."""
    return [*software.faults, *_of_machine(machine), *_of_jetson(machine, software)]


def _run(software: Software) -> Ability:
    what, providers = "run bundles", software.onnxruntime_providers
    if "CPUExecutionProvider" in providers:
        return Ability(what, True, f"ONNX Runtime {software.packages['onnxruntime']} on the CPU")
    if software.openvino_devices:
        return Ability(what, True, f"OpenVINO on {', '.join(software.openvino_devices)}: --backend openvino")
    return Ability(what, False, "no ONNX Runtime that starts", "pip install 'detheads[cpu]'")


def _nvidia(machine: Machine, software: Software) -> Ability:
    what = "run on an NVIDIA GPU"
    providers = [name for name in software.onnxruntime_providers if name in GPU_PROVIDERS]
    packages = software.packages
    engines = [name for name in ("tensorrt", "tensorrt-rtx-cu13") if packages[name]]
    if not software.gpus:
        if machine.nvidia_devices and machine.nvidia_driver is None:
            return Ability(what, False, "a GPU without its driver", "sudo apt-get install nvidia-driver-580")
        return Ability(what, False, "no NVIDIA GPU that answers")
    if providers:
        return Ability(what, True, f"{', '.join(software.gpus)}: ONNX Runtime's {', '.join(providers)}")
    if engines and packages["cuda-python"]:
        return Ability(what, True, f"{', '.join(software.gpus)}: engines of {', '.join(engines)}")
    build = "pip uninstall -y onnxruntime && " if packages.get("onnxruntime") else ""
    return Ability(what, False, "no software that uses it", f"{build}pip install 'detheads[gpu]'")


def _intel(machine: Machine, software: Software) -> Ability:
    what = "run on an Intel GPU or NPU"
    devices = [
        f"{name} ({full})" for name, full in software.openvino_devices.items() if name.partition(".")[0] != "CPU"
    ]
    if devices:
        return Ability(what, True, f"OpenVINO: {', '.join(devices)}")
    if not machine.intel_devices and "an NPU (Linux accel)" not in machine.accelerators:
        return Ability(what, False, "neither is here")
    if software.packages["openvino"] is None:
        return Ability(what, False, "OpenVINO is not installed", "pip install 'detheads[openvino]'")
    return Ability(what, False, "OpenVINO does not see it", "sudo apt-get install intel-opencl-icd")


def _engines(machine: Machine, software: Software) -> Ability:
    what = "build engines"
    if software.packages["tensorrt-rtx-cu13"]:
        return Ability(what, True, f"TensorRT-RTX {software.packages['tensorrt-rtx-cu13']}, with or without a GPU")
    if software.packages["tensorrt"] and software.gpus:
        return Ability(what, True, f"TensorRT {software.packages['tensorrt']}, for the GPU of this machine")
    if machine.jetpack:
        return Ability(
            what, False, "Python does not see the TensorRT of JetPack", "sudo apt-get install python3-libnvinfer"
        )
    if machine.architecture != "x86_64":
        return Ability(what, False, "TensorRT-RTX comes for x86_64, and there is no GPU with TensorRT")
    return Ability(what, False, "TensorRT is not installed", "pip install 'detheads[tensorrt-rtx]'")


def _extra(what: str, extra: str) -> Ability:
    missing = lacking(extra)
    if missing is None:
        return Ability(what, False, "detheads is not installed as a package, so that nothing tells what it needs")
    command = f"pip install 'detheads[{extra}]'" if missing else ""
    return Ability(what, not missing, f"lacks {', '.join(missing)}" if missing else "all is there", command)


def _of_machine(machine: Machine) -> Iterator[str]:
    memory = machine.memory
    if machine.cores_allowed < machine.cores:
        yield f"{machine.cores_allowed} of {machine.cores} cores are allowed here, and so many threads are used."
    if memory.allowed is not None and memory.total is not None and memory.allowed < memory.total:
        yield f"{sized(memory.allowed)} of {sized(memory.total)} memory are allowed here; more ends the process."
    if memory.free is not None and memory.free < LITTLE_MEMORY:
        yield f"Only {sized(memory.free)} memory are free; the runtime takes 110 MB and more."
    if machine.disk_free is not None and machine.disk_free < LITTLE_DISK:
        yield f"Only {sized(machine.disk_free)} are free on this disk."
    if machine.libc == "musl":
        yield "ONNX Runtime has no wheels for musl (Alpine Linux); use an image with glibc, such as Debian's slim ones."
    if re.match(r"armv[67]|i[3-6]86", machine.architecture):
        yield f"A 32-bit system ({machine.architecture}) has no wheels of ONNX Runtime; install the 64-bit one."
    if machine.architecture == "x86_64" and machine.features and "AVX2" not in machine.features:
        yield "The processor has no AVX2, without which inference is several times slower."
    if machine.features and not FAST_INT8 & set(machine.features):
        yield "The processor has no instructions for INT8 products: INT8 bundles are smaller here, and hardly faster."


def _of_jetson(machine: Machine, software: Software) -> Iterator[str]:
    if machine.jetpack and software.tensorrt_libraries and software.packages["tensorrt"] is None:
        yield (
            f"The system has TensorRT {', '.join(software.tensorrt_libraries)}, which this Python does not see; make "
            "its environment with: python3 -m venv --system-site-packages."
        )
