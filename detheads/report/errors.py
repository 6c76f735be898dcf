"""What a detector got wrong, by kind, and what each kind costs in AP.

Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020 (arXiv:2008.08115), in the
order of its published code. A detection that pycocotools finds right at IoU 0.5 is ``found``; every other one has its
first that holds of

- ``misplaced`` (localisation): IoU in [0.1, 0.5) with its nearest object of its class;
- ``confused`` (classification): IoU of at least 0.5 with an object of another class;
- ``duplicate``: IoU of at least 0.5 with an object of its class, which a detection of a higher score has taken;
- ``background``: IoU below 0.1 with every object;
- ``both`` confused and misplaced: the rest, IoU in [0.1, 0.5) with an object of another class.

An object is ``missed`` when no detection finds it and no misplaced or confused one means it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detheads.data import Dataset
from detheads.evaluation.scores import verdicts_of

RIGHT, NEAR = 0.5, 0.1
"""IoU from which a detection is right, and from which it has to do with an object at all."""


class Kind(IntEnum):
    """What became of a detection; ``MISSED`` of an object."""

    FOUND = 0
    MISSED = 1
    MISPLACED = 2
    CONFUSED = 3
    BOTH = 4
    DUPLICATE = 5
    BACKGROUND = 6

    @property
    def label(self) -> str:
        return self.name.lower()


WRONG = tuple(kind for kind in Kind if kind is not Kind.FOUND)
"""The kinds of errors, in the order of the tables."""


@dataclass(frozen=True)
class Errors:
    """Every detection and every object at IoU 0.5, as indices into the dataset's images and categories.

    Crowd regions are not objects; detections inside one of their class, and those beyond the best 100 of an image and
    class, are left out.

    Attributes:
        classes: number of classes.
        image, label: of each detection, ``[N]``, in pycocotools' order of equal scores.
        score: ``[N]``.
        boxes: xyxy in original pixels, ``[N, 4]``.
        kind: a :class:`Kind` each, ``[N]``.
        about: the object that the detection found, misses or repeats, ``[N]``; -1 for background.
        object_image, object_label: of each object, ``[M]``.
        object_boxes: xyxy in original pixels, ``[M, 4]``.
        found_by: the detection that found the object, ``[M]``; -1 for none.
    """

    classes: int
    image: NDArray[np.int64]
    label: NDArray[np.int64]
    score: NDArray[np.float64]
    boxes: NDArray[np.float64]
    kind: NDArray[np.int64]
    about: NDArray[np.int64]
    object_image: NDArray[np.int64]
    object_label: NDArray[np.int64]
    object_boxes: NDArray[np.float64]
    found_by: NDArray[np.int64]

    def verdicts(self, score: float = 0.0) -> NDArray[np.int64]:
        """What becomes of each object when only detections of at least this score are kept, ``[M]``.

        ``FOUND``, ``MISSED``, or ``MISPLACED`` or ``CONFUSED`` where only such a detection means it. Detections take
        objects in the order of their scores, so those that are left do not change their kinds.
        """
        kept = self.score >= score
        verdicts = np.full(len(self.found_by), Kind.MISSED, np.int64)
        for kind in (Kind.CONFUSED, Kind.MISPLACED, Kind.FOUND):
            verdicts[self.about[kept & (self.kind == kind)]] = kind
        return verdicts

    def counts(self, score: float = 0.0) -> dict[Kind, int]:
        """Detections of each kind with at least this score, and the objects missed by all of them."""
        kept = self.kind[self.score >= score]
        missed = int((self.verdicts(score) == Kind.MISSED).sum())
        return {kind: missed if kind is Kind.MISSED else int((kept == kind).sum()) for kind in Kind}

    def average_precisions(self, repaired: Kind | None = None) -> NDArray[np.float64]:
        """AP at IoU 0.5 of each class ``[K]``, as it is or with one kind of error repaired; NaN without objects.

        Of misplaced and confused detections the best of each object that nothing found becomes right and the others
        leave; duplicates, background and those that are both leave; missed objects are not counted,
        and a class that has missed all counts as 1.
        """
        kept, right, label = np.ones(len(self.kind), bool), self.kind == Kind.FOUND, self.label.copy()
        counted = np.ones(len(self.found_by), bool)
        if repaired is Kind.MISSED:
            counted = self.verdicts() != Kind.MISSED
        elif repaired is not None:
            kept = self.kind != repaired
        if repaired in (Kind.MISPLACED, Kind.CONFUSED):
            saved = self._best_of_each_object(np.flatnonzero(self.kind == repaired))
            kept[saved] = right[saved] = True
            label[saved] = self.object_label[self.about[saved]]
        objects = np.bincount(self.object_label, minlength=self.classes)
        left = np.bincount(self.object_label[counted], minlength=self.classes)
        result = np.where(objects > 0, 1.0, np.nan)
        for own, rows in _groups(label, np.flatnonzero(kept)):
            if left[own]:
                result[own] = average_precision(self.score[rows], right[rows], int(left[own]))
        silent = np.bincount(label[kept], minlength=self.classes) == 0
        result[silent & (left > 0)] = 0.0
        return result

    def cost(self, kind: Kind) -> float | None:
        """AP at IoU 0.5 that is gained when the errors of a kind are repaired and no others; None without objects."""
        before, after = self.average_precisions(), self.average_precisions(kind)
        known = ~np.isnan(before)
        # Fewer objects move the 101 places where precision is read: a loss is that and nothing else.
        return max(0.0, float(after[known].mean() - before[known].mean())) if known.any() else None

    def _best_of_each_object(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of detections that mean one object, which nothing finds, the one of the highest score."""
        rows = rows[self.found_by[self.about[rows]] < 0]
        rows = rows[np.argsort(-self.score[rows], kind="stable")]
        return rows[np.unique(self.about[rows], return_index=True)[1]]


def average_precision(scores: NDArray[np.float64], right: NDArray[np.bool_], objects: int) -> float:
    """Precision averaged over the recalls 0, 0.01, ... 1, interpolated as pycocotools does.

    Args:
        scores, right: of each detection of a class, ``[N]``.
        objects: their number, at least 1.
    """
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    places = np.searchsorted(hits / objects, np.linspace(0, 1, 101), side="left")
    return float(np.append(precision, 0.0)[places].mean())


def find_errors(judge: Any, dataset: Dataset) -> Errors:
    """The errors by the verdicts of a judge of :func:`detheads.evaluation.coco.judge_at` whose first IoU is 0.5.

    Args:
        judge: of the dataset's objects.
    """
    given, drawn = judge.cocoGt.dataset["annotations"], judge.cocoDt.dataset["annotations"]
    verdicts = verdicts_of(judge)
    detections, truth = [drawn[index] for index in verdicts.detections], [given[index] for index in verdicts.objects]
    place_of = {image.id: index for index, image in enumerate(dataset.images)}
    label_of = {category.id: index for index, category in enumerate(dataset.categories)}
    image, object_image = (_integers(place_of[each["image_id"]] for each in part) for part in (detections, truth))
    label, object_label = (_integers(label_of[each["category_id"]] for each in part) for part in (detections, truth))
    xywh, object_xywh = (np.array([each["bbox"] for each in part]).reshape(-1, 4) for part in (detections, truth))
    position = {number: index for index, number in enumerate(verdicts.objects)}
    about = _integers(position[number] if number >= 0 else -1 for number in verdicts.taken)
    kind = np.where(about >= 0, Kind.FOUND, Kind.BACKGROUND)
    found_by = np.full(len(truth), -1, np.int64)
    found_by[about[about >= 0]] = np.flatnonzero(about >= 0)
    near = dict(_groups(object_image, np.arange(len(truth))))
    for place, rows in _groups(image, np.flatnonzero(about < 0)):
        if place in near:
            beside = near[place]
            same = label[rows][:, None] == object_label[beside]
            kind[rows], nearest = _kinds(_overlaps(xywh[rows], object_xywh[beside]), same)
            about[rows] = np.where(nearest >= 0, beside[nearest], -1)
    return Errors(
        classes=len(dataset.categories),
        image=image,
        label=label,
        score=np.array([each["score"] for each in detections], np.float64),
        boxes=_corners(xywh),
        kind=kind.astype(np.int64),
        about=about,
        object_image=object_image,
        object_label=object_label,
        object_boxes=_corners(object_xywh),
        found_by=found_by,
    )


def _kinds(iou: NDArray[np.float64], same: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Kinds ``[N]`` of detections that found nothing, and the object each means (-1 for none), from ``[N, M]``."""
    own, other = np.where(same, iou, 0.0), np.where(same, 0.0, iou)
    own_best, other_best = own.max(axis=1), other.max(axis=1)
    tests = [
        (own_best >= NEAR) & (own_best < RIGHT),
        other_best >= RIGHT,
        own_best >= RIGHT,
        other_best < NEAR,
    ]
    kind = np.select(tests, [Kind.MISPLACED, Kind.CONFUSED, Kind.DUPLICATE, Kind.BACKGROUND], Kind.BOTH)
    mine, others = own.argmax(axis=1), other.argmax(axis=1)
    return kind, np.select(tests, [mine, others, mine, np.full(len(mine), -1)], others)


def _overlaps(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU ``[N, M]`` of xywh boxes, by the function that the judge uses."""
    from pycocotools.mask import iou

    overlaps: NDArray[np.float64] = np.asarray(iou(first, second, [0] * len(second)))
    return overlaps


def _groups(keys: NDArray[np.int64], rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each key that some of ``rows`` have, with those rows in their order."""
    order = rows[np.argsort(keys[rows], kind="stable")]
    for part in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1):
        if len(part):
            yield int(keys[part[0]]), part


def _integers(values: Iterator[int]) -> NDArray[np.int64]:
    return np.fromiter(values, np.int64)


def _corners(xywh: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), axis=1)
