"""Detection heads on a frozen vision backbone: train in minutes, ship one verified graph.

What people need from Python is here by name; ``docs/from-python.md`` shows it at work. Names are imported when they are
first used, so that ``import detheads`` is quick and a device with the runtime alone needs no torch.
"""

import importlib
import os
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from detheads.foundation.errors import UserError

if TYPE_CHECKING:
    from detheads.backbones.backbone import Backbone, load_backbone
    from detheads.cache.builder import build_cache
    from detheads.cache.reader import FeatureCache
    from detheads.data import Dataset, list_splits, read_dataset
    from detheads.deploy.detector import Detections, Detector
    from detheads.evaluation.coco import Statistics, evaluate
    from detheads.evaluation.predict import evaluate_cache, predict_cache
    from detheads.export.pipeline import export_run
    from detheads.export.proof import Proof, proof_dataset
    from detheads.headkit.contract import Head, HeadOutput
    from detheads.headkit.registry import build, register
    from detheads.targets.objects import Targets
    from detheads.training.config import TrainConfig
    from detheads.training.hand_made import save_run
    from detheads.training.trainer import Trainer

# ONNX Runtime and Ray report usage to their makers, unless this is set before they start.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

try:
    __version__ = version("detheads")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0.0.0+source"

_MODULES = {
    "Backbone": "backbones.backbone",
    "Dataset": "data",
    "Detections": "deploy.detector",
    "Detector": "deploy.detector",
    "FeatureCache": "cache.reader",
    "Head": "headkit.contract",
    "HeadOutput": "headkit.contract",
    "Proof": "export.proof",
    "Statistics": "evaluation.coco",
    "Targets": "targets.objects",
    "TrainConfig": "training.config",
    "Trainer": "training.trainer",
    "build": "headkit.registry",
    "build_cache": "cache.builder",
    "evaluate": "evaluation.coco",
    "evaluate_cache": "evaluation.predict",
    "export_run": "export.pipeline",
    "list_splits": "data",
    "load_backbone": "backbones.backbone",
    "predict_cache": "evaluation.predict",
    "proof_dataset": "export.proof",
    "read_dataset": "data",
    "register": "headkit.registry",
    "save_run": "training.hand_made",
}

__all__ = [
    "Backbone",
    "Dataset",
    "Detections",
    "Detector",
    "FeatureCache",
    "Head",
    "HeadOutput",
    "Proof",
    "Statistics",
    "Targets",
    "TrainConfig",
    "Trainer",
    "UserError",
    "__version__",
    "build",
    "build_cache",
    "evaluate",
    "evaluate_cache",
    "export_run",
    "list_splits",
    "load_backbone",
    "predict_cache",
    "proof_dataset",
    "read_dataset",
    "register",
    "save_run",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'detheads' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"detheads.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
