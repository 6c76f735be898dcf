"""What is installed that detheads builds on, and what each of it says it can use here."""

import importlib
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any, Final

from detheads.deploy.engines.machine import find_gpu
from detheads.deploy.runtime import advice, installed_builds, load_onnxruntime
from detheads.foundation.control_groups import MACHINE
from detheads.foundation.errors import UserError

PACKAGES: Final = {
    "openvino": "run bundles with --backend openvino",
    "tensorrt": "engines on a GPU machine",
    "tensorrt-rtx-cu13": "engines built without a GPU",
    "cuda-python": "engines executed",
    "av": "videos, streams, cameras",
    "trackers": "ids over the frames of a video",
    "fastapi": "serve",
    "uvicorn": "serve",
    "pyzmq": "serve Frigate",
    "ray": "batches and arenas on a cluster",
    "cryptography": "signatures of bundles",
    "torch": "train and export",
    "torchvision": "train and export",
    "timm": "backbones",
    "open_clip_torch": "text embeddings",
    "pycocotools": "evaluation",
    "hotcoco": "fast evaluation",
    "scikit-learn": "closed-form heads",
    "onnx": "export",
    "onnxscript": "export",
}
CODECS: Final = ("h264", "hevc", "av1", "vp9", "mjpeg")
"""That cameras and files come in."""
LIBRARY_FOLDERS: Final = ("usr/lib/*", "usr/local/cuda/lib64", "usr/local/tensorrt/lib", "opt/tensorrt/lib")
SECONDS: Final = 20
"""That ``nvidia-smi`` may take; it hangs where a driver does."""


@dataclass(frozen=True)
class Software:
    """What there is.

    Attributes:
        packages: version by name; None: not installed.
        onnxruntime_providers: execution providers of the build of ONNX Runtime.
        openvino_devices: full name by device.
        gpus: what CUDA, ``nvidia-smi`` or torch call them.
        cuda: newest CUDA that the driver knows, such as ``13.0``.
        tensorrt_libraries: TensorRT that the system brings outside of Python, as on a Jetson.
        codecs: which of :data:`CODECS` PyAV decodes.
        faults: a sentence for each thing that is installed and does not start.
    """

    packages: Mapping[str, str | None]
    onnxruntime_providers: list[str]
    openvino_devices: Mapping[str, str]
    gpus: list[str]
    cuda: str | None
    tensorrt_libraries: list[str]
    codecs: list[str]
    faults: list[str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(root: Path = MACHINE) -> Software:
    """Ask everything that is installed.

    Args:
        root: where the libraries of the system are looked for.
    """
    builds = installed_builds()
    packages: dict[str, str | None] = {"onnxruntime": None, **builds, **{name: installed(name) for name in PACKAGES}}
    faults = [sentence for sentence in (advice(builds),) if sentence]
    providers: list[str] = []
    try:  # the module itself, which several distributions bring: only importing it tells whether it starts
        onnxruntime = load_onnxruntime()
        packages["onnxruntime"] = onnxruntime.__version__
        providers = onnxruntime.get_available_providers()
    except UserError as error:
        faults = [str(error)]
    return Software(
        packages=packages,
        onnxruntime_providers=providers,
        openvino_devices=_openvino(packages["openvino"], faults),
        gpus=_gpus(packages["torch"], faults),
        cuda=_cuda(),
        tensorrt_libraries=_libraries(root),
        codecs=_codecs(packages["av"], faults),
        faults=faults,
    )


def installed(package: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _openvino(present: str | None, faults: list[str]) -> dict[str, str]:
    if present is None:
        return {}
    try:
        core = importlib.import_module("openvino").Core()
        return {device: str(core.get_property(device, "FULL_DEVICE_NAME")) for device in core.available_devices}
    except Exception as error:  # a library that does not fit the machine fails in many ways
        faults.append(
            f"OpenVINO does not start ({_line(error)}); install it anew: pip install -U --force-reinstall openvino."
        )
        return {}


def _gpus(torch_version: str | None, faults: list[str]) -> list[str]:
    """By CUDA where cuda-python is there, else by the driver's own tool, else by torch."""
    found: list[str] = []
    for index in count():
        try:
            found.append(str(find_gpu(index)))
        except UserError:
            break
    if not found:
        found = _told_by_driver()
    if not found and torch_version is not None:
        try:
            torch = importlib.import_module("torch")
            found = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        except (ImportError, OSError, RuntimeError) as error:
            faults.append(f"torch does not start ({_line(error)}); install it anew.")
    return found


def _told_by_driver() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in said.splitlines() if line.strip()]


def _cuda() -> str | None:
    try:
        runtime = importlib.import_module("cuda.bindings.runtime")
        _, number = runtime.cudaDriverGetVersion()
    except Exception:  # not installed, or without a driver
        return None
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def _libraries(root: Path) -> list[str]:
    """Versions in the names of the system's ``libnvinfer.so.X.Y.Z``."""
    paths = [path for folder in LIBRARY_FOLDERS for path in root.glob(f"{folder}/libnvinfer.so.*.*.*")]
    return sorted({path.name.removeprefix("libnvinfer.so.") for path in paths})


def _codecs(present: str | None, faults: list[str]) -> list[str]:
    if present is None:
        return []
    try:
        known = importlib.import_module("av").codecs_available
    except Exception as error:  # its libraries may not fit the system
        faults.append(f"PyAV does not start ({_line(error)}); install it anew: pip install -U --force-reinstall av.")
        return []
    return [name for name in CODECS if name in known]


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
