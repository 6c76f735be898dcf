"""How far two sets of detections of the same images differ in AP, and how sure that is.

The interval is that of a paired bootstrap: the images are drawn with replacement, each time the same ones for both, and
AP is computed anew (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993). It tells whether other images of
the same kind could turn the order; it knows nothing of other seeds of the training.

Which detection is right does not depend on which images are drawn, so pycocotools decides it once. What is left of AP
is a weighted count, done here for many draws at a time.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detheads.foundation.progress import Progress, silent

IOUS: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""COCO's own, to the last bit."""
DRAWS = 1000
"""The ends of a 95 % interval are each the 25th of so many draws, and so known to about a tenth of its width."""
CONFIDENCE = 0.95
RECALLS = np.linspace(0, 1, 101)
AREAS = ("all", "small", "medium", "large")
Area = Literal["all", "small", "medium", "large"]
CELLS = 2_000_000
"""Draws x detections of a class that are counted at a time: 8 MB an array."""


@dataclass(frozen=True)
class _ClassVerdicts:
    """Detections of one class, the highest score first, at all IoUs.

    Attributes:
        image: index of the image of each detection, ``[D]``.
        right, counted: ``[T, D]``; what is not counted lies in a crowd, or has not the size in question.
        objects: of each image, ``[I]``.
    """

    image: NDArray[np.int64]
    right: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    objects: NDArray[np.int64]


class Resampled:
    """Detections judged once, whose APs can be had for any multiplicity of the images.

    Args:
        judge: of :func:`detheads.evaluation.coco.judge_all` or :func:`detheads.evaluation.coco.judge_at`; the class
            axis below is that of its categories, by ascending id, and the IoU axis its own.
        area: size of the objects that count, by COCO's names; a judge of ``judge_at`` knows "all" only.

    Attributes:
        images: number of images, in ascending order of their ids.
        boxes: objects that count of each class, ``[K]``.
        showing: images that show one, ``[K]``.
    """

    def __init__(self, judge: Any, area: Area = "all") -> None:
        place = {number: index for index, number in enumerate(judge.params.imgIds)}
        wanted = judge.params.areaRng[AREAS.index(area)]
        found: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for entry in judge.evalImgs:  # None for a class that an image neither shows nor is said to show
            if entry is not None and entry["aRng"] == wanted:
                found[entry["category_id"]].append(entry)
        self.images = len(place)
        self._ious = len(judge.params.iouThrs)
        self._classes = [_class_verdicts(found[number], place) for number in judge.params.catIds]
        objects = [np.zeros(1, np.int64) if each is None else each.objects for each in self._classes]
        self.boxes = np.array([each.sum() for each in objects], np.int64)
        self.showing = np.array([np.count_nonzero(each) for each in objects], np.int64)

    def average_precisions(self, times: NDArray[np.integer], on_progress: Progress = silent) -> NDArray[np.float64]:
        """AP of every draw, class and IoU ``[S, K, T]``; NaN where a draw has no object of the class.

        Args:
            times: how often each image occurs in each draw, ``[S, I]``.
        """
        drawn: NDArray[np.int32] = times.astype(np.int32)
        found = np.full((len(drawn), len(self._classes), self._ious), np.nan)
        for column, verdicts in enumerate(self._classes):
            if verdicts is not None and verdicts.objects.any():
                rows = max(1, CELLS // max(1, len(verdicts.image)))
                for start in range(0, len(drawn), rows):
                    found[start : start + rows, column] = _average_precisions(verdicts, drawn[start : start + rows])
            on_progress("drawing images anew", column + 1, len(self._classes))
        return found


class Interval(NamedTuple):
    """In which 95 % of the differences lie when the images are drawn anew, in AP units."""

    low: float
    high: float

    def told(self) -> str:
        """``-0.0012 to +0.0003``; what rounds to zero has no minus."""
        low, high = (round(end, 4) + 0.0 for end in self)
        return f"{low:+.4f} to {high:+.4f}"

    def within(self, limit: float) -> bool:
        """Whether no difference in it is larger than ``limit``."""
        return max(-self.low, self.high) <= limit

    def beyond(self, limit: float) -> bool:
        """Whether every difference in it is larger than ``limit``, in one direction."""
        return self.low > limit or self.high < -limit


@dataclass(frozen=True)
class Differences:
    """What a paired bootstrap says of the second side less the first; None where no draw defines a difference.

    Attributes:
        AP, AP50, AP75: over all classes.
        classes: of the AP of each class, by ascending category id.
    """

    AP: Interval | None
    AP50: Interval | None
    AP75: Interval | None
    classes: Sequence[Interval | None]


class Bootstrap:
    """The first side of paired comparisons, whose APs are computed once for all second sides.

    Args:
        first: judged at COCO's ten IoUs.
        draws: of as many images as there are, with replacement.
        seed: of the draws.
    """

    def __init__(self, first: Resampled, *, draws: int = DRAWS, seed: int = 0, on_progress: Progress = silent) -> None:
        random = np.random.default_rng(seed)
        chosen = (random.integers(first.images, size=first.images) for _ in range(draws))
        self.times = np.array([np.bincount(images, minlength=first.images) for images in chosen], np.int32)
        self._first = first.average_precisions(self.times, on_progress)

    def differences(self, second: Resampled, on_progress: Progress = silent) -> Differences:
        """Of a second side, which was judged on the same images and classes."""
        each = second.average_precisions(self.times, on_progress) - self._first  # [S, K, T]; NaN on both sides alike
        classes = each.mean(axis=2)
        return Differences(
            AP=_interval(_mean_of_classes(classes)),
            AP50=_interval(_mean_of_classes(each[..., IOUS.index(0.5)])),
            AP75=_interval(_mean_of_classes(each[..., IOUS.index(0.75)])),
            classes=[_interval(column) for column in classes.T],
        )


def _mean_of_classes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the classes of which a draw has objects: ``[S, K]`` to ``[S]``, NaN where it has none."""
    known = ~np.isnan(values)
    sums = np.where(known, values, 0.0).sum(axis=1)
    return np.divide(sums, known.sum(axis=1), out=np.full(len(values), np.nan), where=known.any(axis=1))


def _interval(differences: NDArray[np.float64]) -> Interval | None:
    known = differences[~np.isnan(differences)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))


def _class_verdicts(entries: Sequence[Mapping[str, Any]], place: Mapping[int, int]) -> _ClassVerdicts | None:
    """None for a class without objects and detections."""
    if not entries:
        return None
    scores = np.concatenate([entry["dtScores"] for entry in entries])
    order = np.argsort(-scores, kind="stable")  # pycocotools' own order of equal scores
    own = np.array([place[entry["image_id"]] for entry in entries])
    ignored = np.concatenate([entry["dtIgnore"] for entry in entries], axis=1).astype(bool)
    matched = np.concatenate([entry["dtMatches"] for entry in entries], axis=1) > 0
    objects = np.zeros(len(place), np.int64)
    objects[own] = [np.count_nonzero(~np.asarray(entry["gtIgnore"], bool)) for entry in entries]
    return _ClassVerdicts(
        np.repeat(own, [len(entry["dtScores"]) for entry in entries])[order],
        (matched & ~ignored)[:, order],
        ~ignored[:, order],
        objects,
    )


def _average_precisions(verdicts: _ClassVerdicts, times: NDArray[np.int32]) -> NDArray[np.float64]:
    """AP of one class ``[S, T]``.

    Precision is highest where a detection is right, so only those are looked at; each stands for the recalls (of the
    101) that it reaches first.
    """
    objects = times @ verdicts.objects
    drawn = objects > 0
    weights = times.T[verdicts.image].T  # [S, D], by rows of the transposed: five times as fast as by columns
    found = np.full((len(times), len(verdicts.right)), np.nan)
    for place, (right, kept) in enumerate(zip(verdicts.right, _kept(verdicts, weights), strict=True)):
        columns = np.flatnonzero(right)
        hits = np.cumsum(weights[:, columns], axis=1)
        precision = hits / np.maximum(kept[:, columns], 1)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = np.searchsorted(RECALLS, hits / np.maximum(objects, 1)[:, None], side="right")
        newly = np.diff(reached, axis=1, prepend=0)
        found[drawn, place] = (precision * newly).sum(axis=1)[drawn] / len(RECALLS)
    return found


def _kept(verdicts: _ClassVerdicts, weights: NDArray[np.int32]) -> Iterator[NDArray[np.int32]]:
    """Detections so far at each IoU, ``[S, D]`` each; the same ones at all IoUs but for those that meet a crowd."""
    known: dict[bytes, NDArray[np.int32]] = {}
    for counted in verdicts.counted:
        key = counted.tobytes()
        if key not in known:
            known[key] = np.cumsum(weights * counted, axis=1, dtype=np.int32)
        yield known[key]
