"""What detections and objects say of any detector: scores, curves, errors by kind, by class and by image."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detheads.data import Dataset
from detheads.evaluation.coco import Statistics, judge_at
from detheads.evaluation.scores import BestScore, ScoreCurves, curves_of
from detheads.report.curves import CURVE_IOUS, PrecisionRecall, measure_curves
from detheads.report.errors import NEAR, RIGHT, WRONG, Errors, Kind, find_errors

DEFAULT_SCORE = 0.3
"""Detections from this score on count in classes and images where none is right, and so no working point is known."""


@dataclass(frozen=True)
class ClassReport:
    """One class at the working score.

    Attributes:
        AP, AP50: over all scores; None without objects.
        counts: its detections by kind, and its objects that are missed.
        taken_for: the class that its objects are confused with most often, and how often; None for never.
    """

    name: str
    id: int
    objects: int
    AP: float | None
    AP50: float | None
    counts: Mapping[Kind, int]
    taken_for: tuple[str, int] | None


@dataclass(frozen=True)
class ImageReport:
    """One image at the working score; ``index`` is its place in the dataset."""

    index: int
    objects: int
    counts: Mapping[Kind, int]

    @property
    def errors(self) -> int:
        return sum(self.counts[kind] for kind in WRONG)


@dataclass(frozen=True)
class Measured:
    """All that is known of a detector's detections.

    Attributes:
        dataset: the objects; its image files need not exist.
        statistics: COCO's.
        curves: at ``CURVE_IOUS``.
        errors: at IoU 0.5.
        scores: precision, recall and F1 over scores, at IoU 0.5.
    """

    dataset: Dataset
    statistics: Statistics
    curves: Sequence[PrecisionRecall]
    errors: Errors
    scores: ScoreCurves

    @cached_property
    def working_point(self) -> BestScore | None:
        """The best F1 of all classes together; None where no detection is right."""
        return self.scores.together.best

    @property
    def score(self) -> float:
        """The working score: detections from it on count in classes and images, and are drawn."""
        return DEFAULT_SCORE if self.working_point is None else self.working_point.score

    @cached_property
    def costs(self) -> dict[Kind, float | None]:
        """AP at IoU 0.5 that the repair of each kind of error would gain."""
        return {kind: self.errors.cost(kind) for kind in WRONG}

    @cached_property
    def classes(self) -> list[ClassReport]:
        """Of the lowest AP first, those without objects last."""
        errors, names = self.errors, self.dataset.class_names
        per_class = list(self.statistics.per_class.values())  # by category id, ascending
        order = sorted(range(len(names)), key=lambda label: self.dataset.categories[label].id)
        counts = self._counts_by(errors.label, errors.object_label, len(names))
        objects = np.bincount(errors.object_label, minlength=len(names)).tolist()
        confusions: dict[int, Counter[int]] = {label: Counter() for label in range(len(names))}
        for row in np.flatnonzero((errors.kind == Kind.CONFUSED) & (errors.score >= self.score)):
            confusions[int(errors.object_label[errors.about[row]])][int(errors.label[row])] += 1
        reports = []
        for label, statistics in zip(order, per_class, strict=True):
            most = confusions[label].most_common(1)
            reports.append(
                ClassReport(
                    name=names[label],
                    id=self.dataset.categories[label].id,
                    objects=objects[label],
                    AP=statistics.AP,
                    AP50=statistics.AP50,
                    counts=counts[label],
                    taken_for=(names[most[0][0]], most[0][1]) if most else None,
                )
            )
        return sorted(reports, key=lambda report: 2.0 if report.AP is None else report.AP)

    @cached_property
    def images(self) -> list[ImageReport]:
        """The images with errors, of the most first."""
        errors, count = self.errors, len(self.dataset.images)
        objects = np.bincount(errors.object_image, minlength=count).tolist()
        counts = self._counts_by(errors.image, errors.object_image, count)
        reports = [ImageReport(index, objects[index], counts[index]) for index in range(count)]
        wrong = [report for report in reports if report.errors]
        return sorted(wrong, key=lambda report: (-report.errors, self.dataset.images[report.index].id))

    def to_dict(self) -> dict[str, Any]:
        """JSON values; None where nothing defines one."""
        return {
            "statistics": self.statistics.to_dict(),
            "precision_recall": [
                asdict(curve) | {"average_precision": curve.average_precision} for curve in self.curves
            ],
            "scores": self.scores.to_dict() | {"curve": self.scores.together.sampled()},
            "working_point": None if self.working_point is None else asdict(self.working_point),
            "errors": self.errors_by_kind(),
            "classes": [
                {key: value for key, value in asdict(each).items() if key != "counts"} | _named(each.counts)
                for each in self.classes
            ],
            "images": [
                {"id": image.id, "file_name": image.file_name, "objects": each.objects, **_named(each.counts)}
                for each in self.images
                for image in [self.dataset.images[each.index]]
            ],
        }

    def errors_by_kind(self) -> dict[str, Any]:
        """JSON values: how many errors of each kind there are, at all scores and from the working score on, and the AP
        at IoU 0.5 that their repair would gain."""
        everywhere, working = self.errors.counts(), self.errors.counts(self.score)
        return {
            "iou": RIGHT,
            "near_iou": NEAR,
            "score": self.score,
            "objects": len(self.errors.found_by),
            "found": {"all": everywhere[Kind.FOUND], "at_score": working[Kind.FOUND]},
            **{
                kind.label: {"all": everywhere[kind], "at_score": working[kind], "ap50_gained": self.costs[kind]}
                for kind in WRONG
            },
        }

    def _counts_by(self, keys: NDArray[np.int64], object_keys: NDArray[np.int64], groups: int) -> list[dict[Kind, int]]:
        """Detections by kind and missed objects of each group, at the working score."""
        kept = self.errors.score >= self.score
        columns: dict[Kind, NDArray[np.int64]] = {
            kind: np.bincount(keys[kept & (self.errors.kind == kind)], minlength=groups)
            for kind in Kind
            if kind is not Kind.MISSED
        }
        missed = self.errors.verdicts(self.score) == Kind.MISSED
        columns[Kind.MISSED] = np.bincount(object_keys[missed], minlength=groups)
        return [{kind: int(columns[kind][group]) for kind in Kind} for group in range(groups)]


def measure(dataset: Dataset, detections: Sequence[Mapping[str, Any]], statistics: Statistics) -> Measured:
    """Find curves and errors.

    Args:
        detections: COCO results for the dataset.
        statistics: of the same detections.

    Raises:
        UserError: when a detection refers to an image or class that the dataset has not.
    """
    judge = judge_at(dataset.coco_json(), detections, CURVE_IOUS)
    errors = find_errors(judge, dataset)
    return Measured(dataset, statistics, measure_curves(judge), errors, curves_of(judge))


def _named(counts: Mapping[Kind, int]) -> dict[str, int]:
    return {kind.label: count for kind, count in counts.items()}
