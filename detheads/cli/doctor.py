"""``detheads doctor``: what this installation can do."""

import platform
from importlib.metadata import PackageNotFoundError, version

from rich.console import Console

from detheads import __version__
from detheads.cli.output import JsonFlag, emit, table
from detheads.deploy.runtime import advice as builds_advice
from detheads.deploy.runtime import installed_builds, load_onnxruntime
from detheads.foundation.errors import UserError

PACKAGES = {
    "onnxruntime": "run bundles",
    "torch": "train and export",
    "torchvision": "train and export",
    "timm": "backbones",
    "open_clip_torch": "text embeddings",
    "pycocotools": "evaluation",
    "hotcoco": "fast evaluation",
    "scikit-learn": "closed-form heads",
    "onnx": "export",
    "onnxscript": "export",
    "tensorrt": "engines on a GPU machine",
    "tensorrt-rtx-cu13": "engines built without a GPU",
}


def doctor(as_json: JsonFlag = False) -> None:
    """Versions of what detheads builds on, and which devices and providers there are."""
    builds = installed_builds()
    packages = {name: _version(name) for name in PACKAGES} | builds
    providers: list[str] = []
    advice = builds_advice(builds)
    try:
        onnxruntime = load_onnxruntime()
        providers = onnxruntime.get_available_providers()
        packages["onnxruntime"] = onnxruntime.__version__
    except UserError as error:
        advice = str(error)
    gpus: list[str] = []
    if packages["torch"]:
        import torch

        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    answer = {
        "detheads": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": packages,
        "onnxruntime_providers": providers,
        "advice": advice,
        "gpus": gpus,
    }

    def render(console: Console) -> None:
        console.print(f"detheads {__version__}, Python {platform.python_version()}, {platform.machine()}")
        rows = [(name, found or "not installed", PACKAGES.get(name, "run bundles")) for name, found in packages.items()]
        console.print(table(("package", "version", "for"), rows))
        console.print(f"ONNX Runtime providers: {', '.join(providers) or 'none'}")
        if advice:
            console.print(advice)
        console.print(f"GPUs: {', '.join(gpus) or 'none; engines are built, not executed'}")

    emit(answer, as_json, render)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
