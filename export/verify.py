"""The proof: the same images through PyTorch and through the shipped artefact, compared at three depths.

Tensors before suppression (read inside the shipped graph), final boxes, and mAP. The PyTorch side
(:mod:`detheads.export.live`) and the artefact side (:mod:`detheads.deploy`) share no code but the letterbox.
"""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from detheads.data.dataset import Category, Dataset, ImageRecord
from detheads.deploy import Detections, Detector
from detheads.deploy.session import open_graph
from detheads.evaluation.coco import Statistics, evaluate
from detheads.export.graph import DENSE_NAMES, INPUT_NAME
from detheads.export.live import LiveDetector, LiveResult
from detheads.export.matching import Comparison, TensorDifference
from detheads.export.onnx_export import with_dense_outputs
from detheads.export.probes import evenly_spaced, odd_pictures
from detheads.export.report import ArtefactResult, VerificationReport
from detheads.export.source import dataset_sha256
from detheads.foundation.bundle import BundleManifest, onnx_file
from detheads.foundation.coco_results import to_coco_results
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import letterbox_image
from detheads.foundation.images import load_image

Progress = Callable[[int, int], None]

MAX_MAP_DROP = 0.001
"""Default tolerance in AP units (0..1) for an FP32 graph."""

MIN_MATCHED = 0.99
"""Share of detections that must have a counterpart. Without it two unlike detectors of equal mAP would pass."""

TENSOR_IMAGES = 8

CACHE_REMARK = 0.01
"""Difference between cache and live mAP that deserves a note; it says nothing about the artefact."""


@dataclass
class _Lane:
    """The artefact at one batch size; every run of the graph has exactly that many images."""

    size: int
    waiting: list[tuple[ImageRecord, Image.Image, LiveResult, Detections]] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)
    live: Comparison = field(default_factory=Comparison)
    single: Comparison = field(default_factory=Comparison)

    def flush(self, detector: Detector) -> None:
        if not self.waiting:
            return
        images = [image for _, image, _, _ in self.waiting]
        images += [images[-1]] * (self.size - len(images))
        category_ids = [entry.id for entry in detector.manifest.classes]
        singles = [single for _, _, _, single in self.waiting]
        results = singles if self.size == 1 else detector.detect(images)
        for (record, _, live, single), found in zip(self.waiting, results, strict=False):
            self.live.add(live, found)
            self.single.add(single, found)
            self.entries += to_coco_results(record.id, found.boxes, found.scores, found.labels, category_ids)
        self.waiting.clear()


def compare(
    bundle: Path,
    manifest: BundleManifest,
    live: LiveDetector,
    dataset: Dataset,
    *,
    batch_sizes: Sequence[int] = (1, 2, 5),
    max_map_drop: float = MAX_MAP_DROP,
    min_matched: float = MIN_MATCHED,
    map_cache: float | None = None,
    remarks: Sequence[str] = (),
    threads: int | None = None,
    on_progress: Progress = lambda done, total: None,
) -> VerificationReport:
    """Run ``dataset`` through both sides and judge the difference.

    Args:
        bundle: folder holding ``manifest`` and the graph.
        live: the model the bundle was made from.
        batch_sizes: batch sizes of the artefact; 1 is always among them. The PyTorch side runs single images.
        max_map_drop: largest allowed ``|live - artefact|`` in AP units, 0..1.
        min_matched: smallest allowed share of detections with a counterpart on the other side.
        map_cache: AP recorded when the head was trained on the cache, 0..1.
        threads: CPU threads of ONNX Runtime.

    Raises:
        UserError: when the bundle is not what its manifest says, the dataset's classes are not the bundle's, the
            dataset has no boxes, or an image is missing, unreadable or of another size than annotated.
    """
    dataset = _comparable(manifest, dataset)
    detector = Detector(bundle, threads=threads)
    dense = open_graph(with_dense_outputs(onnx_file(bundle, manifest)), threads=threads)
    tensors = TensorDifference()
    tensor_images = set(evenly_spaced(len(dataset.images), TENSOR_IMAGES))
    lanes = [_Lane(size) for size in sorted({1, *batch_sizes})]
    category_ids = [entry.id for entry in manifest.classes]
    live_entries: list[dict[str, Any]] = []
    on_progress(0, len(dataset.images))
    for index, record in enumerate(dataset.images):
        image = _load(record)
        original = live.detect(image)
        live_entries += to_coco_results(record.id, original.boxes, original.scores, original.labels, category_ids)
        if index in tensor_images:
            array = letterbox_image(image, manifest.input.width, manifest.input.height)[0]
            found = dense.run(list(DENSE_NAMES), {INPUT_NAME: array.transpose(2, 0, 1)[None]})
            tensors.add(original.dense_boxes, original.dense_scores, found[0][0], found[1][0])
        single = detector.detect([image])[0]
        for lane in lanes:
            lane.waiting.append((record, image, original, single))
            if len(lane.waiting) == lane.size:
                lane.flush(detector)
        on_progress(index + 1, len(dataset.images))
    for lane in lanes:
        lane.flush(detector)
    truth = dataset.coco_json()
    statistics = evaluate(truth, live_entries)
    ratios = [image.width / image.height for image in dataset.images]
    artefacts = [_result(manifest, detector, lane, statistics, evaluate(truth, lane.entries)) for lane in lanes]
    odd = _compare_odd(dataset, live, detector)
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
        live_runtime=f"torch {torch.__version__} {live.device.type}, torchvision NMS",
        map_cache=map_cache,
        live=statistics,
        artefacts=artefacts,
        tensors=tensors,
        odd_shapes=odd,
        engines=manifest.engines,
        max_map_drop=max_map_drop,
        min_matched=min_matched,
        remarks=[*remarks, *_cache_remark(map_cache, statistics.AP)],
        reasons=_reasons(artefacts, odd, tensors, len(live_entries), max_map_drop, min_matched),
    )


def _comparable(manifest: BundleManifest, dataset: Dataset) -> Dataset:
    """The dataset with the bundle's classes only, where it holds further ones."""
    wanted = [(entry.id, entry.name) for entry in manifest.classes]
    if set(wanted) < {(category.id, category.name) for category in dataset.categories}:
        dataset = dataset.restricted([Category(*entry) for entry in wanted])
    found = [(category.id, category.name) for category in dataset.categories]
    if wanted != found:
        raise UserError(
            f"{dataset.name} {dataset.split} has {len(found)} classes ({_some(found)}), the bundle has "
            f"{len(wanted)} ({_some(wanted)}); verify with a dataset of the classes it was trained on."
        )
    if not any(len(objects.labels) for objects in dataset.objects):
        raise UserError(
            f"{dataset.name} {dataset.split} has no boxes, so no mAP can be measured; choose another split."
        )
    return dataset


def _some(classes: list[tuple[int, str]]) -> str:
    return ", ".join(f"{number} {name}" for number, name in classes[:3]) + (", ..." if len(classes) > 3 else "")


def _load(record: ImageRecord) -> Image.Image:
    image = load_image(record.path)
    if image.size != (record.width, record.height):
        raise UserError(
            f"{record.path} has {image.width}x{image.height} pixels, its annotation says "
            f"{record.width}x{record.height}; 'detheads data validate' lists all such images."
        )
    return image


def _result(
    manifest: BundleManifest, detector: Detector, lane: _Lane, live: Statistics, found: Statistics
) -> ArtefactResult:
    return ArtefactResult(
        file=manifest.onnx.file,
        runtime=detector.session.runtime,
        batch=lane.size,
        statistics=found,
        map_drop=live.AP - found.AP,
        versus_live=lane.live,
        versus_single=lane.single,
    )


def _compare_odd(dataset: Dataset, live: LiveDetector, detector: Detector) -> Comparison:
    comparison = Comparison()
    pictures = list(odd_pictures(dataset.images))
    for picture, found in zip(pictures, detector.detect(pictures), strict=True):
        comparison.add(live.detect(picture), found)
    return comparison


def _cache_remark(map_cache: float | None, map_live: float) -> list[str]:
    if map_cache is None or abs(map_live - map_cache) <= CACHE_REMARK:
        return []
    return [
        f"the figure from the feature cache differs by {map_live - map_cache:+.4f}: it was measured on other images, "
        "or the cache's storage type costs accuracy"
    ]


def _reasons(
    artefacts: Sequence[ArtefactResult],
    odd: Comparison,
    tensors: TensorDifference,
    live_detections: int,
    max_map_drop: float,
    min_matched: float,
) -> list[str]:
    """Why the proof fails; empty when it holds."""
    reasons = []
    for artefact in artefacts:
        where = f"{artefact.file} at batch {artefact.batch}"
        if not abs(artefact.map_drop) <= max_map_drop + 1e-12:
            reasons.append(f"{where}: mAP differs by {artefact.map_drop:+.4f}, allowed is {max_map_drop:g}")
        for name, comparison in (("PyTorch", artefact.versus_live), ("its own batch of 1", artefact.versus_single)):
            if comparison.share < min_matched:
                reasons.append(
                    f"{where}: only {100 * comparison.share:.2f} % of detections match those of {name}, "
                    f"required are {100 * min_matched:g} %"
                )
    if odd.share < min_matched:
        reasons.append(f"images of extreme shape: only {100 * odd.share:.2f} % of detections match")
    if not np.isfinite([tensors.boxes, tensors.scores]).all():
        reasons.append("the artefact gives numbers that are not finite")
    if live_detections == 0:
        reasons.append("PyTorch itself detects nothing on these images, so equality proves nothing; train longer")
    return reasons
