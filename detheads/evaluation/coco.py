"""COCO box statistics. pycocotools is the judge of record; hotcoco gives the same values faster."""

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detheads.evaluation.inputs import Detections, GroundTruth, read_detections, read_ground_truth
from detheads.foundation.errors import UserError

Evaluator = Literal["pycocotools", "hotcoco"]

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve statistics in pycocotools' order."""

UNDEFINED = "undefined"
"""How a statistic that no object defines reads, everywhere."""


@dataclass(frozen=True)
class ClassStatistics:
    """AP over IoU 0.50:0.95 and AP at IoU 0.50 of one class, in ``[0, 1]``; None where it has no object."""

    AP: float | None
    AP50: float | None


@dataclass(frozen=True)
class Statistics:
    """The twelve COCO statistics in ``[0, 1]``, None where no object defines one, and the AP of each class."""

    AP: float | None
    AP50: float | None
    AP75: float | None
    APs: float | None
    APm: float | None
    APl: float | None
    AR1: float | None
    AR10: float | None
    AR100: float | None
    ARs: float | None
    ARm: float | None
    ARl: float | None
    per_class: Mapping[str, ClassStatistics]
    """By class name, in the order of the category ids; a name that several ids share is followed by its id."""

    def require_ap(self) -> float:
        """AP, for what cannot do without.

        Raises:
            UserError: when no object defines it.
        """
        if self.AP is None:
            raise UserError("AP is undefined, because the images show no object that counts: nothing was measured.")
        return self.AP

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: the statistics by name, and ``per_class``; null where undefined."""
        return {
            **{name: getattr(self, name) for name in NAMES},
            "per_class": {name: {"AP": value.AP, "AP50": value.AP50} for name, value in self.per_class.items()},
        }


def statistic_text(value: float | None, pattern: str = ".4f") -> str:
    """A statistic for a reader: the number, or the word for one that no object defines."""
    return UNDEFINED if value is None else format(value, pattern)


def evaluate(
    ground_truth: GroundTruth,
    detections: Detections,
    evaluator: Evaluator = "pycocotools",
) -> Statistics:
    """COCO box statistics of detections. Neither argument is changed.

    Args:
        ground_truth: COCO annotation object or the path of its file, xywh in original-image pixels. ``info``,
            ``iscrowd``, ``area`` (then the area of the box) and annotation ids may be missing.
        detections: COCO results or the path of their file, xywh in original-image pixels; may be empty.
        evaluator: which library computes.

    Raises:
        UserError: when the evaluator is not installed, an argument is not what it should be, or a detection or
            annotation refers to an image or category that the ground truth does not list.
    """
    truth, results = _prepare(ground_truth, detections)
    judge = _judged(_hotcoco if evaluator == "hotcoco" else _pycocotools, truth, results)
    return _statistics(judge, class_names(truth["categories"]))


def judge_all(ground_truth: GroundTruth, detections: Detections) -> Any:
    """pycocotools' ``COCOeval`` of boxes by COCO's own rules, evaluated, accumulated and summarised.

    Args:
        ground_truth, detections: as :func:`evaluate` takes them.

    Raises:
        UserError: as :func:`evaluate`.
    """
    return _judged(_pycocotools, *_prepare(ground_truth, detections))


def statistics_of(judge: Any) -> Statistics:
    """The statistics of a judge of :func:`judge_all`."""
    return _statistics(judge, class_names(judge.cocoGt.dataset["categories"]))


def _judged(library: Callable[[dict[str, Any], dict[str, Any]], Any], *given: dict[str, Any]) -> Any:
    with redirect_stdout(io.StringIO()):  # both libraries report on standard output, which is the command line's
        judge = library(*given)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


def _statistics(judge: Any, names: Sequence[str]) -> Statistics:
    # IoU thresholds x recalls x categories (by ascending id) x areas x detection limits: all areas, 100 detections.
    precision: NDArray[np.float64] = judge.eval["precision"][:, :, :, 0, -1]
    return Statistics(
        **dict(zip(NAMES, map(_defined, judge.stats), strict=True)),
        per_class={
            name: ClassStatistics(_mean(precision[:, :, column]), _mean(precision[0, :, column]))
            for column, name in enumerate(names)
        },
    )


def judge_at(ground_truth: GroundTruth, detections: Detections, ious: Sequence[float]) -> Any:
    """pycocotools' ``COCOeval`` of boxes at some IoUs, evaluated and accumulated: its own verdict on every detection.

    Objects of all sizes count, and the best 100 detections of an image and class. Its detections and annotations have
    the ids 1, 2, ... in the order given.

    Args:
        ground_truth, detections: as :func:`evaluate` takes them.
        ious: from which a detection is right, ascending.

    Raises:
        UserError: as :func:`evaluate`.
    """
    with redirect_stdout(io.StringIO()):
        judge = _pycocotools(*_prepare(ground_truth, detections))
        judge.params.iouThrs = np.array(ious)
        judge.params.areaRng, judge.params.areaRngLbl = judge.params.areaRng[:1], judge.params.areaRngLbl[:1]
        judge.params.maxDets = judge.params.maxDets[-1:]
        judge.evaluate()
        judge.accumulate()
    return judge


def _prepare(given: GroundTruth, found: Detections) -> tuple[dict[str, Any], dict[str, Any]]:
    """Datasets of our own of the objects and of the detections, their references checked."""
    ground_truth, detections = read_ground_truth(given), read_detections(found)
    for kind, entries in (("annotation", ground_truth["annotations"]), ("detection", detections)):
        _check_references(kind, entries, ground_truth)
    # Of a result only these count: pycocotools computes its area from the box and knows no crowd detection.
    fields = ("image_id", "category_id", "bbox", "score")
    results = [{field: entry[field] for field in fields} for entry in detections]
    return _boxes_only(ground_truth, ground_truth["annotations"]), _boxes_only(ground_truth, results)


def _pycocotools(truth: dict[str, Any], results: dict[str, Any]) -> Any:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise UserError("pycocotools is not installed; pip install 'detheads[train]'.") from None

    def indexed(dataset: dict[str, Any]) -> COCO:
        coco = COCO()
        coco.dataset = dataset
        coco.createIndex()
        return coco

    return COCOeval(indexed(truth), indexed(results), "bbox")


def _hotcoco(truth: dict[str, Any], results: dict[str, Any]) -> Any:
    try:
        from hotcoco import COCO, COCOeval
    except ImportError:
        raise UserError("the evaluator hotcoco is not installed; pip install 'detheads[hotcoco]'.") from None
    return COCOeval(COCO(truth), COCO(results), "bbox")


def _boxes_only(ground_truth: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A dataset of our own with just what box evaluation reads, every optional field filled in.

    Ids count from 1: pycocotools takes an object with id 0 for no match.
    """
    annotations = []
    for number, entry in enumerate(entries, start=1):
        bbox = [float(value) for value in entry["bbox"]]
        annotation = {
            "id": number,
            "image_id": entry["image_id"],
            "category_id": entry["category_id"],
            "bbox": bbox,
            "area": float(entry.get("area", bbox[2] * bbox[3])),
            "iscrowd": int(entry.get("iscrowd", 0)),
        }
        if "score" in entry:
            annotation["score"] = float(entry["score"])
        annotations.append(annotation)
    return {
        "images": [dict(image) for image in ground_truth["images"]],
        "categories": [{"id": category["id"], "name": category["name"]} for category in ground_truth["categories"]],
        "annotations": annotations,
    }


def _check_references(kind: str, entries: Sequence[Mapping[str, Any]], ground_truth: Mapping[str, Any]) -> None:
    for key, listed in (("image_id", "images"), ("category_id", "categories")):
        known = {item["id"] for item in ground_truth[listed]}
        stray = Counter(entry[key] for entry in entries if entry[key] not in known)
        if stray:
            used, ids = sorted({entry[key] for entry in entries}), sorted(known)
            listing = f"ids {ids[0]} to {ids[-1]}" if ids else "no id"
            raise UserError(
                f"the ground truth lists no {key} {next(iter(stray))} that a {kind} refers to ({sum(stray.values())} "
                f"of {len(entries)} {kind}s name unknown ids; its {listed} have {listing}, the {kind}s {used[0]} to "
                f"{used[-1]}); evaluate against the annotations that the detections were made for"
                f"{_shifted(used, ids) if key == 'category_id' else ''}."
            )


def _shifted(used: Sequence[int], known: Sequence[int]) -> str:
    """The likely cause, where ids count from 0 on one side and from 1 on the other."""
    if used[:1] == [0] and known[:1] == [1]:
        return ", or add 1 to each category_id, which seem to count from 0"
    if used[:1] == [1] and known[:1] == [0]:
        return ", or subtract 1 from each category_id, which seem to count from 1"
    return ""


def class_names(categories: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names by ascending id, the order of both libraries' tables."""
    shared = Counter(category["name"] for category in categories)
    return [
        str(category["name"]) if shared[category["name"]] == 1 else f"{category['name']} ({category['id']})"
        for category in sorted(categories, key=lambda category: int(category["id"]))
    ]


def _mean(precision: NDArray[np.float64]) -> float | None:
    """Mean over the defined entries, as pycocotools summarises; None when there is none."""
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else None


def _defined(value: float) -> float | None:
    """Both libraries write -1 for a statistic that no object defines."""
    return None if value == -1 else float(value)
