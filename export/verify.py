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
from detheads.evaluation.scores import best_scores
from detheads.export.classes import of_these_classes
from detheads.export.diagnosis import advice, apart
from detheads.export.judgement import cache_remarks, full_remarks, reasons
from detheads.export.live import LiveDetector
from detheads.export.matching import Comparison, Found
from detheads.export.proof import Proof
from detheads.export.report import ArtefactResult, VerificationReport
from detheads.export.sides import compare_tensors, run_artefact, run_live, run_odd
from detheads.export.source import Trained, dataset_sha256, training_pictures
from detheads.foundation.bundle import BundleManifest
from detheads.foundation.coco_results import to_coco_results
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, silent
from detheads.foundation.text import visible
from detheads.ops.devices import pick_device


def compare(bundle: Path, trained: Trained, proof: Proof, on_progress: Progress = silent) -> VerificationReport:
    """Run the proof's images through a bundle and through the model it was made from, and judge the difference.

    Raises:
        UserError: when the bundle is not what its manifest says, the dataset's classes are not the bundle's, no object
            of the dataset counts, or an image is missing, unreadable or of another size than annotated.
    """
    detector = Detector(bundle, threads=proof.threads)
    manifest = detector.manifest
    checkpoint, device = trained.checkpoint, pick_device(proof.device)
    live = LiveDetector(trained.backbone, trained.head, checkpoint.feature_spec, manifest.thresholds, device)

    dataset, originals = run_live(live, comparable(manifest, proof.dataset), on_progress, proof.skip_bad)
    require_objects(dataset)
    singles = run_artefact(detector, dataset, 1, on_progress)
    batched = {1: singles}
    for size in sorted({*proof.batch_sizes} - {1}):
        batched[size] = run_artefact(detector, dataset, size, on_progress)
    tensors = compare_tensors(live, bundle / manifest.onnx.file, dataset, proof.threads)
    odd_names, odd_live, odd_found = run_odd(live, detector, dataset)
    odd = Comparison.of(odd_live, odd_found)

    truth = dataset.coco_json()
    results = coco_results(dataset, originals)
    statistics = evaluate(truth, results)
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
    furthest = batched[min(artefacts, key=lambda each: each.versus_live.share).batch]
    names = [record.file_name for record in dataset.images]
    pictures = apart(names, originals, furthest, manifest.thresholds)
    odd_pictures = apart(odd_names, odd_live, odd_found, manifest.thresholds)
    shares = [share for each in artefacts for share in (each.versus_live.share, each.versus_single.share)]
    map_cache = checkpoint.metrics.get("AP")
    ratios = [image.width / image.height for image in dataset.images]
    full = sum(one.full for one in originals)
    return VerificationReport(
        bundle=manifest.name,
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        dataset=visible(dataset.name),
        split=visible(dataset.split),
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
        training_pictures=training_pictures(checkpoint, proof.dataset, dataset),
        full_tables=full,
        classes=dataset.class_names,
        apart=[*pictures, *odd_pictures],
        advice=advice(pictures, odd_pictures, tensors, [*shares, odd.share], proof.min_matched, device.type),
        best_scores=best_scores(truth, results),
        skipped=dataset.skipped,
        remarks=[
            *trained.remarks,
            *full_remarks(full, len(originals), manifest.thresholds),
            *cache_remarks(map_cache, live_ap),
        ],
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
    wanted = [Category(entry.id, entry.name) for entry in manifest.classes]
    return require_objects(of_these_classes(dataset, wanted, "the bundle"))


def require_objects(dataset: Dataset) -> Dataset:
    """The dataset itself.

    Raises:
        UserError: when none of its objects counts.
    """
    if not counted_objects(dataset):
        raise UserError(
            f"{dataset.name} {dataset.split} has no object that counts (crowd regions do not), so no mAP can be "
            "measured and nothing proven; choose another split."
        )
    return dataset
