"""A device checks itself: the probes of a bundle, and a dataset where one is given, run here and judged here.

The verdict goes into ``device.json`` beside the manifest, one for each machine and runtime. It is a device's own word:
neither listed in the manifest nor signed.
"""

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError

from detheads.data.dataset import Category, Dataset
from detheads.data.digest import dataset_sha256
from detheads.data.pictures import load_picture
from detheads.data.same_classes import of_these_classes
from detheads.deploy.detector import BATCH, Detector
from detheads.deploy.device import describe
from detheads.deploy.matching import Found, match
from detheads.deploy.probes import read_probes
from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest
from detheads.foundation.coco_results import to_coco_results
from detheads.foundation.contents import DEVICE_NAME
from detheads.foundation.entry import Entry
from detheads.foundation.errors import UserError
from detheads.foundation.images import load_image
from detheads.foundation.progress import Progress, silent
from detheads.foundation.reading import LARGEST_MANIFEST, read_json
from detheads.foundation.text import visible

BEST: Final = 50
"""Detections of a picture that must have a counterpart, the best ones. Each is looked for among all of the other
side's, so that the last rows of a full table, which rounding exchanges, cost nothing."""
MOST_VERDICTS: Final = 32
"""Kept in a bundle, the latest ones."""

Judge = Callable[[dict[str, Any], Sequence[dict[str, Any]]], float | None]
"""A COCO annotation object and COCO results -> AP over IoU 0.50:0.95, None where no object defines it."""


class ProbeVerdict(Entry):
    """What the probes say. Boxes in pixels of the picture."""

    pictures: int
    detections: int
    """Of PyTorch, that were looked for."""
    matched: float
    """Share of both sides' best detections that have a counterpart."""
    required: float
    box_difference: float
    score_difference: float


class DataVerdict(Entry):
    """The AP of one head on a dataset, in 0..1."""

    head: str
    dataset: str
    split: str
    dataset_sha256: str
    images: int
    map: float | None
    map_proven: float | None
    """PyTorch's, of the bundle's proof, where it was made on the same dataset."""
    max_map_drop: float | None


class DeviceVerdict(Entry):
    """What one machine found with one runtime."""

    passed: bool
    reasons: list[str]
    device: str
    runtime: str
    file: str
    onnx_sha256: str
    date: str
    """ISO 8601, UTC."""
    probes: ProbeVerdict | None
    data: list[DataVerdict] = Field(default_factory=list)


class DeviceVerdicts(Entry):
    """What ``device.json`` holds, the latest last."""

    schema_version: int = 1
    verdicts: list[DeviceVerdict] = Field(max_length=MOST_VERDICTS)


def prove(
    bundle: Path,
    *,
    backend: str = "cpu",
    threads: int | None = None,
    dataset: Dataset | None = None,
    judge: Judge | None = None,
    on_progress: Progress = silent,
) -> DeviceVerdict:
    """Run the probes of a bundle, and the pictures of a dataset where one is given, and judge what is found.

    Args:
        dataset: with boxes; heads whose classes it has are measured on it by the ``judge``.

    Raises:
        UserError: when the bundle cannot be used, the backend is not here, or there is nothing to judge by.
    """
    manifest = read_manifest(bundle)
    detectors = [Detector(bundle, backend=backend, threads=threads, head=head.name) for head in manifest.heads]
    session = detectors[0].session
    reasons: list[str] = []
    probed = None
    if dataset is None or (bundle / "probes").is_dir():
        probed = _probe(bundle, detectors, on_progress)
        reasons += _probe_reasons(probed)
    measured = []
    if dataset is not None and judge is not None:
        for each in _with_classes_of(detectors, dataset):
            measured.append(_measure(each, dataset, judge, on_progress))
            reasons += _data_reasons(measured[-1])
    return DeviceVerdict(
        passed=not reasons,
        reasons=reasons,
        device=describe(),
        runtime=session.runtime,
        file=session.file,
        onnx_sha256=manifest.onnx.sha256,
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        probes=probed,
        data=measured,
    )


def store(bundle: Path, verdict: DeviceVerdict) -> str | None:
    """Write a verdict into ``device.json``, in place of the same machine's earlier one. Returns why not, or None."""
    kept = [
        each for each in read_verdicts(bundle)
        if (each.device, each.runtime, each.file) != (verdict.device, verdict.runtime, verdict.file)
    ]  # fmt: skip
    verdicts = DeviceVerdicts(verdicts=[*kept, verdict][-MOST_VERDICTS:])
    try:
        atomic.write_json(bundle / DEVICE_NAME, verdicts.model_dump(mode="json"))
    except OSError as error:
        return f"the verdict was not written into {bundle} ({error.strerror or error}); the bundle is as it was"
    return None


def read_verdicts(bundle: Path) -> list[DeviceVerdict]:
    """What devices said of a bundle so far, the latest last.

    Raises:
        UserError: when ``device.json`` is not what this writes.
    """
    path = bundle / DEVICE_NAME
    if not path.is_file():
        return []
    try:
        return DeviceVerdicts.model_validate(read_json(path, LARGEST_MANIFEST)).verdicts
    except ValidationError as error:
        raise UserError(f"{path} is not valid ({error.errors()[0]['msg']}); remove it.") from None


def share_of_best(reference: Sequence[Found], found: Sequence[Found]) -> tuple[int, float, float, float]:
    """How well two sides agree on their best detections, over pictures in the same order.

    Returns:
        How many of the reference were looked for; the share of both sides' best with a counterpart, 0 where there are
        none; the largest difference of a box's coordinate, in pixels, and of a score among the matched.
    """
    looked_for = total = matched = 0
    boxes = scores = 0.0
    for one, other in zip(reference, found, strict=True):
        pairs = match(one, other)
        best = min(BEST, len(one.scores)), min(BEST, len(other.scores))
        looked_for += best[0]
        total += sum(best)
        matched += sum((row < best[0]) + (column < best[1]) for row, column in pairs)
        for row, column in pairs:
            boxes = max(boxes, float(abs(one.boxes[row] - other.boxes[column]).max()))
            scores = max(scores, float(abs(one.scores[row] - other.scores[column])))
    return looked_for, matched / total if total else 0.0, boxes, scores


def _probe(bundle: Path, detectors: Sequence[Detector], on_progress: Progress) -> ProbeVerdict:
    """Run every probe alone and all of them as one batch; the worse counts."""
    manifest = detectors[0].manifest
    probes = read_probes(bundle, manifest)
    pictures = [load_image(bundle / probe.file) for probe in probes.probes]
    wanted: list[Found] = []
    runs: list[list[Found]] = [[], []]
    for step, detector in enumerate(detectors, start=1):
        wanted += [probe.found[detector.heads[0].name].arrays for probe in probes.probes]
        for run, batch in zip(runs, (1, len(pictures)), strict=True):
            run += detector.detect(pictures, batch)
        on_progress("probes", step, len(detectors))
    looked_for, share, boxes, scores = min((share_of_best(wanted, run) for run in runs), key=lambda each: each[1])
    return ProbeVerdict(
        pictures=len(pictures),
        detections=looked_for,
        matched=share,
        required=probes.required,
        box_difference=boxes,
        score_difference=scores,
    )


def _measure(detector: Detector, dataset: Dataset, judge: Judge, on_progress: Progress) -> DataVerdict:
    head = detector.heads[0]
    wanted = of_these_classes(dataset, _categories(detector), "the bundle")
    ids = [entry.id for entry in head.classes]
    results: list[dict[str, Any]] = []
    for start in range(0, len(wanted.images), BATCH):
        records = wanted.images[start : start + BATCH]
        for record, found in zip(records, detector([load_picture(record) for record in records]), strict=True):
            results += to_coco_results(record.id, found.boxes, found.scores, found.labels, ids)
        on_progress(f"dataset, head {head.name}", start + len(records), len(wanted.images))
    sha256 = dataset_sha256(wanted)
    proof = head.verification
    same = proof is not None and proof.dataset_sha256 == sha256
    return DataVerdict(
        head=head.name,
        dataset=visible(wanted.name),
        split=visible(wanted.split),
        dataset_sha256=sha256,
        images=len(wanted.images),
        map=judge(wanted.coco_json(), results),
        map_proven=proof.map_live if proof is not None and same else None,
        max_map_drop=proof.max_map_drop if proof is not None and same else None,
    )


def _with_classes_of(detectors: Sequence[Detector], dataset: Dataset) -> Sequence[Detector]:
    """Those whose classes a dataset has; the first where it has nobody's, which then says what is missing."""
    return [each for each in detectors if set(_categories(each)) <= set(dataset.categories)] or detectors[:1]


def _categories(detector: Detector) -> list[Category]:
    return [Category(entry.id, entry.name) for entry in detector.heads[0].classes]


def _probe_reasons(verdict: ProbeVerdict) -> list[str]:
    if not verdict.detections:
        return ["PyTorch detects nothing in the probes, so equality proves nothing; give --data DATASET"]
    if verdict.matched < verdict.required:
        return [
            f"only {100 * verdict.matched:.1f} % of the best detections in the probes match PyTorch's, required are "
            f"{100 * verdict.required:.1f} %"
        ]
    return []


def _data_reasons(verdict: DataVerdict) -> list[str]:
    if verdict.map is None:
        return [f"{verdict.dataset} {verdict.split} has no object that counts, so no mAP can be measured"]
    if verdict.map_proven is None or verdict.max_map_drop is None:
        return []
    drop = verdict.map_proven - verdict.map
    if abs(drop) > verdict.max_map_drop + 1e-12:
        return [
            f"head {verdict.head}: mAP differs by {drop:+.4f} from the proof's, allowed is {verdict.max_map_drop:g}"
        ]
    return []
