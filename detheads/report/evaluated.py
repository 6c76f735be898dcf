"""One evaluation: of a trained run on a feature cache, or of any tool's COCO results on a dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from detheads.backbones.text import Embeddings
from detheads.cache.reader import FeatureCache, counted_objects
from detheads.data import Dataset
from detheads.evaluation.coco import Evaluator, Statistics, evaluate
from detheads.evaluation.inputs import named_images, suspicions
from detheads.evaluation.predict import predict_cache
from detheads.foundation.coco_results import require_results
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, silent, under
from detheads.foundation.reading import read_json
from detheads.headkit.cost import parameters_of
from detheads.training.checkpoint import Checkpoint, Which, build_head, load_checkpoint, matching_cache
from detheads.training.pictures import among
from detheads.training.vocabulary import with_classes


@dataclass(frozen=True)
class Evaluated:
    """Detections with their statistics, and where both come from.

    Attributes:
        name: what detected: the run's folder or the results' file.
        dataset: the objects; image files only where it was read from its folder.
        detections: COCO results.
        remarks: sentences for the human.
        facts: what was evaluated, by title.
        answer: the same as JSON values.
        head: name and number of parameters, where a run detected.
    """

    name: str
    dataset: Dataset
    detections: Sequence[Mapping[str, Any]]
    statistics: Statistics
    remarks: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    answer: Mapping[str, Any] = field(default_factory=dict)
    head: tuple[str, int] | None = None


def evaluate_run(
    run: str | Path,
    cache: str | Path | FeatureCache,
    which: Which = "best",
    *,
    device: torch.device | None = None,
    embeddings: Embeddings | None = None,
    soft_nms: bool = False,
    evaluator: Evaluator = "pycocotools",
    on_progress: Progress = silent,
) -> Evaluated:
    """Run a trained or fitted head over a cache.

    Args:
        embeddings: of those of the cache's classes that are new to the head, which then has the cache's.

    Raises:
        UserError: when the run is unusable, the cache is of another backbone, size or classes, or holds no object that
            counts.
    """
    checkpoint = load_checkpoint(Path(run), which)
    opened = cache if isinstance(cache, FeatureCache) else FeatureCache(cache)
    if embeddings is not None:
        checkpoint = with_classes(checkpoint, opened.dataset.categories, embeddings, str(run))
    features = matching_cache(checkpoint, opened)
    features.require_objects("evaluate on")
    head = build_head(checkpoint)
    if device is not None:
        head = head.to(device)
    detections = predict_cache(head, features, use_soft_nms=soft_nms, on_progress=under("detecting", on_progress))
    dataset, parameters, settings = features.dataset, parameters_of(head), features.manifest.settings
    return Evaluated(
        name=str(run),
        dataset=dataset,
        detections=detections,
        statistics=evaluate(dataset.coco_json(), detections, evaluator),
        remarks=list(training_remarks(checkpoint, features)),
        facts={
            "Head": f"{checkpoint.head_name}, {parameters:,} parameters",
            "Options": ", ".join(f"{name} {value}" for name, value in checkpoint.head_config.items()) or "none",
            "Run": f"{run}, weights {checkpoint.checkpoint_sha256[:12]}",
            "Features": f"{settings.backbone}, input {settings.width} x {settings.height} pixels",
            "Suppression": "soft NMS" if soft_nms else "as in the deployed graph",
        },
        answer={
            "model": str(run),
            "head": checkpoint.head_name,
            "options": checkpoint.head_config,
            "checkpoint_sha256": checkpoint.checkpoint_sha256,
            "parameters": parameters,
            "soft_nms": soft_nms,
        },
        head=(checkpoint.head_name, parameters),
    )


def evaluate_results(path: str | Path, dataset: Dataset, evaluator: Evaluator = "pycocotools") -> Evaluated:
    """Evaluate a COCO result file of any tool on a dataset; file names in place of image ids are followed.

    Raises:
        UserError: when the file holds no COCO results, they are of other images or classes, or the dataset has no
            object that counts.
    """
    if not counted_objects(dataset):
        raise UserError(
            f"{dataset.name} {dataset.split} has no object that counts (crowd regions do not): AP would be undefined; "
            "choose another split."
        )
    entries, truth = read_json(path), dataset.coco_json()
    if not isinstance(entries, list):
        raise UserError(f"{path} holds no list of detections; give a COCO result file, not an annotation file.")
    detections = named_images(entries, truth)
    require_results(detections, str(path))
    return Evaluated(
        name=str(path),
        dataset=dataset,
        detections=detections,
        statistics=evaluate(truth, detections, evaluator),
        remarks=suspicions(truth, detections),
        facts={"Detections": f"{path}, {len(detections):,} of another tool"},
        answer={"detections": str(path)},
    )


def training_remarks(checkpoint: Checkpoint, cache: FeatureCache) -> Sequence[str]:
    """A remark when images of a cache are among those that the head was trained on."""
    digests = [image.sha256 for image in cache.manifest.images]
    same = cache.manifest.annotations_sha256 == checkpoint.dataset_sha256
    known = len(digests) if same else among(checkpoint.pictures, digests)
    if not known:
        return []
    part = "the pictures" if known == len(digests) else f"{known} pictures ({known / len(digests):.0%})"
    return [
        f"{cache.folder} holds {part} that the head was trained on: the figures say how well it knows them by heart, "
        "and nothing of new pictures"
    ]
