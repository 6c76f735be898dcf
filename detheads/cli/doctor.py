"""``detheads doctor``: what this installation can do."""

import platform
from importlib.metadata import PackageNotFoundError, version

from rich.console import Console

from detheads import __version__
from detheads.cli.output import JsonFlag, emit, table
from detheads.foundation.cores import available_cores
from detheads.foundation.errors import UserError

PACKAGES = {
    "torch": "train and export",
    "torchvision": "train and export",
    "timm": "backbones",
    "open_clip_torch": "text embeddings",
    "pycocotools": "evaluation",
    "hotcoco": "fast evaluation",
    "scikit-learn": "closed-form heads",
    "onnx": "export",
    "onnxscript": "export",
    "openvino": "run bundles with --backend openvino",
    "cryptography": "signatures of bundles",
    "tensorrt": "engines on a GPU machine",
    "tensorrt-rtx-cu13": "engines built without a GPU",
    "cuda-python": "engines executed",
}


def doctor(as_json: JsonFlag = False) -> None:
    """Versions of what detheads builds on, which devices and providers there are, and what stands in the way."""
    from detheads.deploy.engines.machine import gpu_here
    from detheads.deploy.runtime import advice, installed_builds, load_onnxruntime

    builds = installed_builds()
    packages = {"onnxruntime": None, **builds, **{name: _version(name) for name in PACKAGES}}
    advices = [sentence for sentence in (advice(builds),) if sentence]
    providers: list[str] = []
    try:  # the module itself, which several distributions bring: only importing it tells whether it starts
        onnxruntime = load_onnxruntime()
        packages["onnxruntime"] = onnxruntime.__version__
        providers = onnxruntime.get_available_providers()
    except UserError as error:
        advices = [str(error)]
    gpus = [str(gpu)] if (gpu := gpu_here()) else []
    if packages["torch"]:
        try:
            import torch

            gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        except (ImportError, OSError, RuntimeError) as error:
            advices.append(f"torch does not start ({(str(error).splitlines() or [''])[0]}); install it anew.")
    answer = {
        "detheads": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": available_cores(),
        "packages": packages,
        "onnxruntime_providers": providers,
        "gpus": gpus,
        "advice": advices,
    }

    def render(console: Console) -> None:
        machine = f"{platform.machine()}, {available_cores()} cores"
        console.print(f"detheads {__version__}, Python {platform.python_version()}, {machine}")
        rows = [(name, found or "not installed", PACKAGES.get(name, "run bundles")) for name, found in packages.items()]
        console.print(table(("package", "version", "for"), rows))
        console.print(f"ONNX Runtime providers: {', '.join(providers) or 'none'}")
        console.print(f"GPUs: {', '.join(gpus) or 'none; engines are built, not executed'}")
        for sentence in advices:
            console.print(sentence)

    emit(answer, as_json, render)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
