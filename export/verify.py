"""The proof: the same images through PyTorch and through the shipped artefact, compared at three depths.

Tensors before suppression (read inside the shipped graph), final boxes, and mAP. The PyTorch side
(:mod:`detheads.export.live`) and the artefact side (:mod:`detheads.deploy`) share no code but the letterbox.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from detheads.cache.reader import counted_objects
from detheads.data.dataset import Dataset
from detheads.deploy import Detections
from detheads.deploy.detector import DRAW_SCORE
from detheads.deploy.monitor.collect import collect
from detheads.deploy.monitor.measures import Values
from detheads.evaluation.coco import Statistics
from detheads.evaluation.compare import Bootstrap
from detheads.evaluation.scores import best_scores
from detheads.export.criteria import criteria
from detheads.export.diagnosis import advice, apart
from detheads.export.judged import Judged, judged, objects_of
from detheads.export.judgement import cache_remarks, class_remarks, full_remarks, reasons, shortcomings
from detheads.export.live import LiveDetections, LiveDetector
from detheads.export.matching import Comparison, Found
from detheads.export.precision.executable import Execution, executions, planned
from detheads.export.proof import Proof
from detheads.export.report import ArtefactResult, VerificationReport
from detheads.export.report_pictures import scenes
from detheads.export.sides import Timed, compare_tensors, run_artefact, run_live, run_odd
from detheads.export.source import Trained, dataset_sha256, training_pictures
from detheads.export.vocabulary import of_head, own_labelled, unnamed, unnamed_remarks
from detheads.export.ways import engine_named, executed, further_ways, possible_sizes
from detheads.foundation.bundle import read_manifest
from detheads.foundation.coco_results import to_coco_results
from detheads.foundation.contents import PRECISION_NAME
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import ONLY_HEAD, BundleManifest, Thresholds
from detheads.foundation.progress import Progress, silent, under
from detheads.foundation.reading import read_json
from detheads.foundation.text import visible
from detheads.ops.devices import pick_device
from detheads.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class Reference:
    """The PyTorch side of a proof, measured once however many artefacts are held against it.

    Attributes:
        dataset: the images that could be used, of the model's classes.
        found: PyTorch's detections of each.
        results: the same as COCO results.
        judged: what pycocotools says of them.
        bootstrap: their APs when the images are drawn anew.
        odd_names, odd_pictures, odd_found: pictures of extreme shape, and what PyTorch finds in them.
        pictures: what the pixels of each image say.
        head: name that the head has in a bundle.
        own_labels: the objects of ``dataset`` are what was found, since none of the head's classes is labelled.
    """

    trained: Trained
    live: LiveDetector
    proof: Proof
    dataset: Dataset
    found: list[LiveDetections]
    results: list[dict[str, Any]]
    judged: Judged
    bootstrap: Bootstrap
    odd_names: list[str]
    odd_pictures: list[Image.Image]
    odd_found: list[LiveDetections]
    pictures: list[Values]
    head: str = ONLY_HEAD
    own_labels: bool = False

    @property
    def statistics(self) -> Statistics:
        return self.judged.statistics


def measure(
    trained: Trained, thresholds: Thresholds, proof: Proof, on_progress: Progress = silent, head: str = ONLY_HEAD
) -> Reference:
    """Run the proof's images through a trained model.

    Args:
        thresholds: constants of suppression, those of the artefacts to come.
        head: name that the head has in the bundle.

    Raises:
        UserError: when the dataset's classes are not the model's, no object of it counts, or an image is missing,
            unreadable or of another size than annotated.
    """
    checkpoint = trained.checkpoint
    live = LiveDetector(trained.backbone, trained.head, checkpoint.feature_spec, thresholds, pick_device(proof.device))
    wanted = require_objects(proof.dataset, checkpoint, "the bundle")
    dataset, found, pictures = run_live(live, wanted, on_progress, proof.skip_bad)
    own_labels = checkpoint.vocabulary_sha256 is not None and not counted_objects(dataset)
    if own_labels:
        dataset = own_labelled(dataset, found)
    require_objects(dataset, checkpoint, "the bundle")
    results = coco_results(dataset, found)
    own = judged(dataset, results)
    bootstrap = Bootstrap(own.resampled, on_progress=under("verifying", on_progress))
    odd = run_odd(live, dataset)
    return Reference(trained, live, proof, dataset, found, results, own, bootstrap, *odd, pictures, head, own_labels)


def compare(bundle: Path, reference: Reference, on_progress: Progress = silent) -> VerificationReport:
    """Run the same images through a bundle, and judge the difference.

    Raises:
        UserError: when the bundle is not what its manifest says.
    """
    proof, dataset, originals, live = reference.proof, reference.dataset, reference.found, reference.live
    checkpoint = reference.trained.checkpoint
    manifest, thresholds = read_manifest(bundle), live.thresholds
    ways = executions(bundle, proof.threads, reference.head)
    nearest = ways[-1]
    further = further_ways(bundle, manifest, proof.backends, proof.threads, reference.head)
    plan = [*planned(ways, proof.batch_sizes)]
    for way in further.executions:
        plan += [(way, size) for size in possible_sizes(manifest, way.detector.session.file, proof.batch_sizes)]
    limits = proof.limits_of(manifest.precision)
    tensors = compare_tensors(live, nearest.graph, dataset, proof.threads, reference.head)
    odd_found = nearest.detector.detect(reference.odd_pictures)
    odd = Comparison.of(reference.odd_found, odd_found)

    runs: dict[tuple[str, str, int], _Run] = {}
    for way, size in plan:
        file = way.detector.session.file
        single = runs[file, way.runtime, 1].found if size > 1 else None
        as_it_is = way is ways[0] and not way.emulated
        runs[file, way.runtime, size] = _run(way, size, reference, manifest, single, not as_it_is, on_progress)
    artefacts = [run.result for run in runs.values()]
    furthest_ap = max(runs.values(), key=lambda run: abs(run.result.map_drop))
    missing = shortcomings(furthest_ap.result.criteria, len(dataset.images))
    furthest = min(runs.values(), key=lambda run: run.result.versus_live.share).found
    names = [record.file_name for record in dataset.images]
    pictures = apart(names, originals, furthest, thresholds)
    odd_pictures = apart(reference.odd_names, reference.odd_found, odd_found, thresholds)
    shares = [share for each in artefacts for share in (each.versus_live.share, each.versus_single.share)]
    map_cache = checkpoint.metrics.get("AP")
    ratios = [image.width / image.height for image in dataset.images]
    full = sum(one.full for one in originals)
    best = {} if reference.own_labels else best_scores(dataset.coco_json(), reference.results)
    changed = checkpoint.vocabulary_sha256 is not None
    return VerificationReport(
        bundle=manifest.name,
        head=reference.head,
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        dataset=visible(dataset.name),
        split=visible(dataset.split),
        dataset_sha256=dataset_sha256(dataset),
        images=len(dataset.images),
        boxes=sum(len(objects.labels) for objects in dataset.objects),
        aspect_ratios=(min(ratios), max(ratios)),
        onnx_sha256=manifest.onnx.sha256,
        checkpoint_sha256=checkpoint.checkpoint_sha256,
        live_runtime=f"torch {torch.__version__} {live.device.type}, torchvision NMS",
        map_cache=map_cache,
        live=reference.statistics,
        artefacts=artefacts,
        tensors=tensors,
        odd_shapes=odd,
        engines=executed(manifest.engines, [artefact.file for artefact in artefacts]),
        limits=limits,
        precision=manifest.precision,
        licence=manifest.backbone.licence,
        own_labels=reference.own_labels,
        training_pictures=training_pictures(checkpoint, proof.dataset, dataset),
        full_tables=full,
        classes=dataset.class_names,
        apart=[*pictures, *odd_pictures],
        advice=advice(pictures, odd_pictures, tensors, [*shares, odd.share], limits.matched, live.device.type),
        best_scores=best,
        seen=collect(
            reference.pictures,
            [(image.width, image.height) for image in dataset.images],
            originals,
            counted_from=[best.get(name, DRAW_SCORE) for name in dataset.class_names],
            floor=thresholds.score,
            dataset=visible(dataset.name),
            split=visible(dataset.split),
        ),
        skipped=dataset.skipped,
        remarks=[
            *reference.trained.remarks,
            *full_remarks(full, len(originals), thresholds),
            *cache_remarks(map_cache, reference.statistics.require_ap()),
            *unnamed_remarks(unnamed(proof.dataset, checkpoint) if changed else (), reference.own_labels),
            *class_remarks(furthest_ap.result.criteria),
            *(way.remark for way in ways if way.emulated),
            *further.remarks,
        ],
        curves={"PyTorch": reference.judged.curves, furthest_ap.result.title: furthest_ap.judged.curves},
        scenes=scenes(dataset, originals, furthest, proof.pictures),
        conversion=conversion(bundle),
        shortcomings=missing,
        reasons=[
            *reasons(artefacts, odd, tensors, sum(len(found.scores) for found in originals), limits),
            *(missing if proof.strict else ()),
        ],
    )


@dataclass(frozen=True)
class _Run:
    """An artefact at one batch size: its detections of every image, and how they compare."""

    result: ArtefactResult
    found: list[Detections]
    judged: Judged


def _run(
    way: Execution,
    size: int,
    reference: Reference,
    manifest: BundleManifest,
    single: list[Detections] | None,
    further: bool,
    on_progress: Progress,
) -> _Run:
    """Run one artefact over all images.

    Args:
        single: its detections at batch 1; None when this is that.
        further: see :class:`ArtefactResult`.
    """
    dataset, timed = reference.dataset, Timed(way.detector)
    found = run_artefact(timed, dataset, size, on_progress)
    side = judged(dataset, coco_results(dataset, found))
    differences = reference.bootstrap.differences(side.resampled, under("verifying", on_progress))
    objects, limits = objects_of(dataset, side.resampled), reference.proof.limits_of(manifest.precision)
    result = ArtefactResult(
        file=way.detector.session.file,
        runtime=way.runtime,
        batch=size,
        statistics=side.statistics,
        map_drop=reference.statistics.require_ap() - side.statistics.require_ap(),
        versus_live=Comparison.of(reference.found, found),
        versus_single=Comparison.of(found if single is None else single, found),
        criteria=criteria(reference.statistics, side.statistics, differences, objects, limits),
        precision=manifest.precision,
        bytes=(engine_named(manifest, way.detector.session.file) or manifest.onnx).bytes,
        milliseconds=None if way.emulated else 1000 * timed.seconds / timed.images,
        further=further,
    )
    return _Run(result, found, side)


def conversion(bundle: Path) -> dict[str, Any]:
    """How the bundle's graph came to its precision; empty where nothing tells."""
    path = bundle / PRECISION_NAME
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def coco_results(dataset: Dataset, found: Sequence[Found]) -> list[dict[str, Any]]:
    """COCO result entries of the detections of all images of a dataset, in its order."""
    ids = [category.id for category in dataset.categories]
    return [
        entry
        for record, one in zip(dataset.images, found, strict=True)
        for entry in to_coco_results(record.id, one.boxes, one.scores, one.labels, ids)
    ]


def require_objects(given: Dataset, checkpoint: Checkpoint, holder: str) -> Dataset:
    """The dataset with the classes of a head.

    Args:
        holder: what the model is called in a sentence.

    Raises:
        UserError: when they are others, or none of its objects counts; of a head whose classes were changed, none need.
    """
    dataset = of_head(given, checkpoint, holder)
    if checkpoint.vocabulary_sha256 is None and not counted_objects(dataset):
        raise UserError(
            f"{dataset.name} {dataset.split} has no object that counts (crowd regions do not), so no mAP can be "
            "measured and nothing proven; choose another split."
        )
    return dataset
