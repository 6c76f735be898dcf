"""What a machine has, read from the files in which Linux tells it; elsewhere as far as Python knows."""

import os
import platform
import re
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from detheads.deploy.device import board, processor, processor_fields
from detheads.foundation.control_groups import MACHINE, read
from detheads.foundation.cores import available_cores
from detheads.foundation.memory import Memory, available_memory

FEATURES: Final = {
    "avx": "AVX",
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16",
    "amx_tile": "AMX",
    "amx_int8": "AMX INT8",
    "amx_bf16": "AMX BF16",
    "neon": "NEON",
    "asimd": "NEON",
    "asimddp": "dot product",
    "asimdhp": "FP16",
    "i8mm": "INT8 matrix product",
    "bf16": "BF16",
    "sve": "SVE",
    "sve2": "SVE2",
}
"""What inference is fast by: flags of ``/proc/cpuinfo`` (``flags`` on x86, ``Features`` on Arm) and their names."""

NVIDIA: Final = "0x10de"
INTEL: Final = "0x8086"
DISPLAY: Final = "0x03"
"""First byte of the class of a PCI device that is a display controller."""
ACCELERATORS: Final = {
    "accel/accel0": "an NPU (Linux accel)",
    "apex_0": "a Coral Edge TPU",
    "hailo0": "a Hailo accelerator",
    "nvhost-nvdla0": "NVIDIA DLA cores",
}
"""Names in ``/dev`` by which further accelerators are known; what runs on them is none of the backends."""


@dataclass(frozen=True)
class Machine:
    """What there is.

    Attributes:
        board: as the device tree calls it, such as a Jetson or a Raspberry Pi; empty on others.
        processor: its model.
        features: of the processor, those in :data:`FEATURES`.
        architecture: as Python calls it, such as ``x86_64``.
        system: operating system by its own name.
        libc: C library and version; wheels of ONNX Runtime are for glibc.
        cores, cores_allowed: of the machine, and those that this process may use.
        memory: in bytes.
        disk_free: in bytes, where the command runs.
        nvidia_driver: its version; None where no driver is loaded.
        nvidia_devices, intel_devices: graphics processors on the PCI bus, whether or not a driver is there.
        jetpack: release of Jetson Linux, such as ``R36.4.0``.
        accelerators: others, by a word.
        cameras: video devices.
    """

    board: str
    processor: str
    features: list[str]
    architecture: str
    system: str
    libc: str
    python: str
    cores: int
    cores_allowed: int
    memory: Memory
    disk_free: int | None
    nvidia_driver: str | None
    nvidia_devices: int
    intel_devices: int
    jetpack: str | None
    accelerators: list[str]
    cameras: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(root: Path = MACHINE, place: Path = Path()) -> Machine:
    """Read what this machine has.

    Args:
        root: where the files of the system are looked for.
        place: a folder on the disk whose free space is told.
    """
    cpuinfo = processor_fields(root)
    flags = (cpuinfo.get("flags") or cpuinfo.get("Features") or "").split()
    return Machine(
        board=board(root),
        processor=processor(root),
        features=list(dict.fromkeys(name for flag, name in FEATURES.items() if flag in flags)),
        architecture=platform.machine(),
        system=_system(root),
        libc=_libc(root),
        python=platform.python_version(),
        cores=os.cpu_count() or 1,
        cores_allowed=available_cores(root),
        memory=available_memory(root),
        disk_free=_free(place),
        nvidia_driver=_driver(root),
        nvidia_devices=_displays(root, NVIDIA),
        intel_devices=_displays(root, INTEL),
        jetpack=_jetson(root),
        accelerators=[name for file, name in ACCELERATORS.items() if (root / "dev" / file).exists()],
        cameras=len(list((root / "dev").glob("video*"))),
    )


def _system(root: Path) -> str:
    said = re.search(r'^PRETTY_NAME="?([^"\n]*)', read(root / "etc/os-release"), re.MULTILINE)
    return said[1] if said else f"{platform.system()} {platform.release()}"


def _libc(root: Path) -> str:
    if list((root / "lib").glob("ld-musl-*")):
        return "musl"
    return " ".join(platform.libc_ver()).strip() or sys.platform


def _free(place: Path) -> int | None:
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return None


def _driver(root: Path) -> str | None:
    """``NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  ...`` -> ``580.65.06``."""
    said = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", read(root / "proc/driver/nvidia/version"))
    return said[1] if said else None


def _displays(root: Path, vendor: str) -> int:
    devices = (root / "sys/bus/pci/devices").glob("*/vendor")
    found = [path.parent for path in devices if read(path).strip() == vendor]
    return sum(read(device / "class").startswith(DISPLAY) for device in found)


def _jetson(root: Path) -> str | None:
    """``# R36 (release), REVISION: 4.0, ...`` -> ``R36.4.0``."""
    said = re.match(r"# (R\d+) \(release\), REVISION: ([\d.]+)", read(root / "etc/nv_tegra_release"))
    return f"{said[1]}.{said[2]}" if said else None
