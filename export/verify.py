"""The proof: the same images through PyTorch and through the shipped artefact, compared at three depths.

Tensors before suppression (read inside the shipped graph), final boxes, and mAP. The PyTorch side
(:mod:`detheads.export.live`) and the artefact side (:mod:`detheads.deploy`) share no code but the letterbox.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from detheads.cache.reader import counted_objects
from detheads.data.dataset import Category, Dataset
from detheads.deploy import Detector
from detheads.evaluation.coco import evaluate
from detheads.export.judgement import cache_remarks, reasons
from detheads.export.live import LiveDetector
from detheads.export.matching import Comparison, Found
from detheads.export.proof import Proof
from detheads.export.report import ArtefactResult, VerificationReport
from detheads.export.sides import compare_odd, compare_tensors, run_artefact, run_live
from detheads.export.source import Trained, dataset_sha256
from detheads.foundation.bundle import BundleManifest
from detheads.foundation.coco_results import to_coco_results
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, silent
from detheads.ops.devices import pick_device


def compare(bundle: Path, trained: Trained, proof: Proof, on_progress: Progress = silent) -> VerificationReport:
    """Run the proof's images through a bundle and through the model it was made from, and judge the difference.

    Raises:
        UserError: when the bundle is not what its manifest says, the dataset's classes are not the bundle's, the
            dataset has no boxes, or an image is missing, unreadable or of another size than annotated.
    """
    detector = Detector(bundle, threads=proof.threads)
    manifest = detector.manifest
    dataset = comparable(manifest, proof.dataset)
    checkpoint, device = trained.checkpoint, pick_device(proof.device)
    live = LiveDetector(trained.backbone, trained.head, checkpoint.feature_spec, manifest.thresholds, device)

    originals = run_live(live, dataset, on_progress)
    singles = run_artefact(detector, dataset, 1, on_progress)
    batched = {1: singles}
    for size in sorted({*proof.batch_sizes} - {1}):
        batched[size] = run_artefact(detector, dataset, size, on_progress)
    tensors = compare_tensors(live, bundle / manifest.onnx.file, dataset, proof.threads)
    odd = compare_odd(live, detector, dataset)

    truth = dataset.coco_json()
    statistics = evaluate(truth, coco_results(dataset, originals))
    live_ap = statistics.require_ap()
    artefacts = []
    for size, found in batched.items():
        measured = evaluate(truth, coco_results(dataset, found))
        artefacts.append(
            ArtefactResult(
                file=manifest.onnx.file,
                runtime=detector.session.runtime,
                batch=size,
                statistics=measured,
                map_drop=live_ap - measured.require_ap(),
                versus_live=Comparison.of(originals, found),
                versus_single=Comparison.of(singles, found),
            )
        )
    map_cache = checkpoint.metrics.get("AP")
    ratios = [image.width / image.height for image in dataset.images]
    return VerificationReport(
        bundle=manifest.name,
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        dataset=dataset.name,
        split=dataset.split,
        dataset_sha256=dataset_sha256(dataset),
        images=len(dataset.images),
        boxes=sum(len(objects.labels) for objects in dataset.objects),
        aspect_ratios=(min(ratios), max(ratios)),
        onnx_sha256=manifest.onnx.sha256,
        checkpoint_sha256=str(manifest.hashes.get("checkpoint")),
        live_runtime=f"torch {torch.__version__} {device.type}, torchvision NMS",
        map_cache=map_cache,
        live=statistics,
        artefacts=artefacts,
        tensors=tensors,
        odd_shapes=odd,
        engines=manifest.engines,
        max_map_drop=proof.max_map_drop,
        min_matched=proof.min_matched,
        remarks=[*trained.remarks, *cache_remarks(map_cache, live_ap)],
        reasons=reasons(artefacts, odd, tensors, sum(len(found.scores) for found in originals), proof),
    )


def coco_results(dataset: Dataset, found: Sequence[Found]) -> list[dict[str, Any]]:
    """COCO result entries of the detections of all images of a dataset, in its order."""
    ids = [category.id for category in dataset.categories]
    return [
        entry
        for record, one in zip(dataset.images, found, strict=True)
        for entry in to_coco_results(record.id, one.boxes, one.scores, one.labels, ids)
    ]


def comparable(manifest: BundleManifest, dataset: Dataset) -> Dataset:
    """The dataset with the bundle's classes only, where it holds further ones.

    Raises:
        UserError: when its classes are others, or it has no object that counts.
    """
    wanted = [(entry.id, entry.name) for entry in manifest.classes]
    if set(wanted) < {(category.id, category.name) for category in dataset.categories}:
        dataset = dataset.restricted([Category(*entry) for entry in wanted])
    found = [(category.id, category.name) for category in dataset.categories]
    if wanted != found:
        raise UserError(
            f"{dataset.name} {dataset.split} has {len(found)} classes ({_some(found)}), the bundle has "
            f"{len(wanted)} ({_some(wanted)}); verify with a dataset of the classes it was trained on."
        )
    if not counted_objects(dataset):
        raise UserError(
            f"{dataset.name} {dataset.split} has no object that counts (crowd regions do not), so no mAP can be "
            "measured and nothing proven; choose another split."
        )
    return dataset


def _some(classes: list[tuple[int, str]]) -> str:
    return ", ".join(f"{number} {name}" for number, name in classes[:3]) + (", ..." if len(classes) > 3 else "")
