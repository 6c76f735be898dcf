"""Machines as Linux describes them, written into a folder."""

from pathlib import Path

RASPBERRY = {
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm aes crc32 asimdhp asimddp\n",
    "proc/meminfo": "MemTotal:        8245000 kB\nMemAvailable:    6100000 kB\nSwapTotal:        102396 kB\n",
    "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "dev/video0": "",
    "dev/hailo0": "",
}
JETSON = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\n",
    "proc/meminfo": "MemTotal:        7800000 kB\nMemAvailable:     400000 kB\nSwapTotal:       3900000 kB\n",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic, EABI: aarch64\n",
    "usr/lib/aarch64-linux-gnu/libnvinfer.so.10.3.0": "",
}
WORKSTATION = {
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: Intel(R) Core(TM) Ultra 7\n"
    "flags\t\t: fpu avx avx2 fma f16c avx_vnni\n\nprocessor\t: 1\nmodel name\t: another\n",
    "proc/meminfo": "MemTotal:       32000000 kB\nMemAvailable:   30000000 kB\nSwapTotal:             0 kB\n",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 2025\n",
    "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
    "sys/bus/pci/devices/0000:01:00.1/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:01:00.1/class": "0x040300\n",
    "sys/bus/pci/devices/0000:00:02.0/vendor": "0x8086\n",
    "sys/bus/pci/devices/0000:00:02.0/class": "0x038000\n",
    "dev/accel/accel0": "",
}
CONTAINER = {
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nflags\t\t: fpu sse4_2 avx\n",
    "proc/meminfo": "MemTotal:       64000000 kB\nMemAvailable:   60000000 kB\nSwapTotal:             0 kB\n",
    "proc/self/cgroup": "0::/\n",
    "sys/fs/cgroup/memory.max": "536870912\n",
    "sys/fs/cgroup/memory.current": "104857600\n",
    "sys/fs/cgroup/cpu.max": "100000 100000\n",
    "lib/ld-musl-x86_64.so.1": "",
}
EMPTY: dict[str, str] = {}


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root
