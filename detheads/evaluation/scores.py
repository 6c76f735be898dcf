"""Precision, recall and F1 over scores at IoU 0.5, and from which score on they are best.

What is right is pycocotools' own verdict (:func:`detheads.evaluation.coco.judge_at`): detections inside a crowd region
of their class are neither right nor wrong, crowd regions are no objects, and the best 100 detections of an image and
class count.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detheads.evaluation.coco import class_names, judge_at
from detheads.evaluation.inputs import Detections, GroundTruth

IOU = 0.5
RECALL = 0.5
"""The recall at which precision and false detections are told: where every working detector gets, so that heads of any
quality can be compared there."""
TABLE_SCORES = tuple(tenth / 10 for tenth in range(1, 10))
"""The scores of printed tables."""
RULE = (
    "the score of the best F1 at IoU 0.5, halfway between the lowest score that is kept and the next one below it; the "
    "highest such score where several are as good"
)


@dataclass(frozen=True)
class Verdicts:
    """What a judge decided on the detections and objects of one IoU that count.

    Attributes:
        detections: indices into the results given to the judge.
        taken: index of the object that each detection found, -1 for none.
        objects: indices into the annotations given to the judge.
        classes: index of the class of each of ``detections``, by ascending category id.
        object_classes: likewise of ``objects``.
    """

    detections: list[int]
    taken: list[int]
    objects: list[int]
    classes: NDArray[np.int64]
    object_classes: NDArray[np.int64]


@dataclass(frozen=True)
class ScorePoint:
    """What is kept from a score on; precision is None where nothing is kept, all three without objects."""

    score: float
    detections: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class BestScore:
    """The score from which on the detections have the best F1 (see ``RULE``), and what they have then."""

    score: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class RecallPoint:
    """What a recall costs, from the highest score on at which so many of the objects are found.

    Attributes:
        recall: that is asked for.
        score: from which on it is reached.
        precision: of the detections of at least that score, all classes together, as they are (not interpolated).
        false_detections: of at least that score, an image.

    The last three are None where no score finds so many objects, and where there are none.
    """

    recall: float
    score: float | None
    precision: float | None
    false_detections: float | None

    def told(self) -> str:
        """The point in a sentence."""
        if self.score is None or self.precision is None or self.false_detections is None:
            return f"A recall of {self.recall:g} is not reached at any score."
        return (
            f"At a recall of {self.recall:g} (from score {self.score:.4f} on) the precision is {self.precision:.3f}, "
            f"with {self.false_detections:.2f} false detections an image."
        )


@dataclass(frozen=True)
class ScoreCurve:
    """Detections of one class or of all, those of the highest score first.

    Attributes:
        scores: each once, descending, ``[N]``.
        kept: detections of at least that score, ``[N]``.
        right: how many of them are right, ``[N]``.
        objects: their number.
    """

    scores: NDArray[np.float64]
    kept: NDArray[np.int64]
    right: NDArray[np.int64]
    objects: int

    @classmethod
    def of(cls, scores: NDArray[np.float64], right: NDArray[np.bool_], objects: int) -> "ScoreCurve":
        """The curve of detections ``[N]`` in any order."""
        order = np.argsort(-scores, kind="stable")
        ordered, hits = scores[order], np.cumsum(right[order])
        last = np.flatnonzero(np.append(ordered[:-1] != ordered[1:], True)) if len(ordered) else np.zeros(0, np.int64)
        return cls(ordered[last], last + 1, hits[last].astype(np.int64), objects)

    def at(self, score: float) -> ScorePoint:
        """What detections of at least this score have."""
        place = int(np.searchsorted(-self.scores, -score, side="right"))
        kept, right = (int(self.kept[place - 1]), int(self.right[place - 1])) if place else (0, 0)
        if not self.objects:
            return ScorePoint(score, kept, None, None, None)
        return ScorePoint(
            score, kept, right / kept if kept else None, right / self.objects, 2 * right / (kept + self.objects)
        )

    def at_recall(self, images: int, recall: float = RECALL) -> RecallPoint:
        """What a recall costs on so many images."""
        reached = np.flatnonzero((self.right >= recall * self.objects) & (self.objects > 0))
        if not len(reached):
            return RecallPoint(recall, None, None, None)
        kept, right = int(self.kept[reached[0]]), int(self.right[reached[0]])
        return RecallPoint(recall, float(self.scores[reached[0]]), right / kept, (kept - right) / images)

    def sampled(self) -> list[dict[str, float | None]]:
        """The curve at the scores 0, 0.01, ... 1, as JSON values."""
        return [asdict(self.at(hundredth / 100)) for hundredth in range(101)]

    @property
    def best(self) -> BestScore | None:
        """None without objects, or where no detection is right."""
        if not self.objects or not len(self.right) or not self.right[-1]:
            return None
        f1 = 2 * self.right / (self.kept + self.objects)
        place = int(f1.argmax())
        below = self.scores[place + 1] if place + 1 < len(self.scores) else 0.0
        # Halfway, so that a score that differs in its last digits on another machine stays on its side.
        score = float((self.scores[place] + below) / 2)
        right = int(self.right[place])
        return BestScore(score, right / int(self.kept[place]), right / self.objects, float(f1[place]))


@dataclass(frozen=True)
class ScoreCurves:
    """The curve of all detections together, and of each class by name, in the order of the category ids.

    Attributes:
        images: that were judged.
    """

    together: ScoreCurve
    per_class: Mapping[str, ScoreCurve]
    images: int

    @property
    def at_recall(self) -> RecallPoint:
        """What it costs to find half of all objects."""
        return self.together.at_recall(self.images)

    @property
    def best_scores(self) -> dict[str, float]:
        """The best score of each class by name; a class without objects, or of which nothing is found, is left out."""
        return {name: best.score for name, curve in self.per_class.items() if (best := curve.best) is not None}

    def to_dict(self) -> dict[str, Any]:
        """JSON values: a table of all detections over scores, what it costs to find half of the objects, and the best
        score of all and of each class."""
        return {
            "iou": IOU,
            "rule": RULE,
            "table": [asdict(self.together.at(score)) for score in TABLE_SCORES],
            "at_recall": asdict(self.at_recall),
            "best": self.together.best and asdict(self.together.best),
            "per_class": {name: curve.best and asdict(curve.best) for name, curve in self.per_class.items()},
        }


def score_curves(ground_truth: GroundTruth, detections: Detections) -> ScoreCurves:
    """Precision, recall and F1 over scores.

    Args:
        ground_truth, detections: as :func:`detheads.evaluation.coco.evaluate` takes them.

    Raises:
        UserError: as that does.
    """
    return curves_of(judge_at(ground_truth, detections, [IOU]))


def best_scores(ground_truth: GroundTruth, detections: Detections) -> dict[str, float]:
    """From which score on the detections of each class have the best F1 at IoU 0.5, by class name (see ``RULE``).

    A class without objects, or of which no object is found, is left out.

    Args:
        ground_truth, detections: as :func:`detheads.evaluation.coco.evaluate` takes them.

    Raises:
        UserError: as that does.
    """
    return score_curves(ground_truth, detections).best_scores


def curves_of(judge: Any) -> ScoreCurves:
    """The curves by the verdicts of a judge whose first IoU is 0.5."""
    verdicts = verdicts_of(judge)
    drawn = judge.cocoDt.dataset["annotations"]
    scores = np.array([drawn[index]["score"] for index in verdicts.detections], np.float64)
    right = np.array(verdicts.taken, np.int64) >= 0
    names = class_names(judge.cocoGt.dataset["categories"])
    per_class = {}
    for label, name in enumerate(names):
        rows = verdicts.classes == label
        per_class[name] = ScoreCurve.of(scores[rows], right[rows], int((verdicts.object_classes == label).sum()))
    return ScoreCurves(ScoreCurve.of(scores, right, len(verdicts.objects)), per_class, len(judge.params.imgIds))


def verdicts_of(judge: Any) -> Verdicts:
    """The verdicts of a judge at its first IoU; crowds, and what lies in them, left out."""
    detections: list[int] = []
    taken: list[int] = []
    objects: list[int] = []
    for found in judge.evalImgs:  # None for a class that an image neither shows nor is said to show
        if found is not None:
            counts = ~found["dtIgnore"][0].astype(bool)
            detections += [number - 1 for number, counted in zip(found["dtIds"], counts, strict=True) if counted]
            taken += [int(match) - 1 for match in found["dtMatches"][0][counts]]
            objects += [n - 1 for n, ignored in zip(found["gtIds"], found["gtIgnore"], strict=True) if not ignored]
    label_of = {number: label for label, number in enumerate(judge.params.catIds)}  # ascending

    def labels(entries: Sequence[Mapping[str, Any]], indices: Sequence[int]) -> Iterator[int]:
        return (label_of[entries[index]["category_id"]] for index in indices)

    return Verdicts(
        detections,
        taken,
        objects,
        np.fromiter(labels(judge.cocoDt.dataset["annotations"], detections), np.int64),
        np.fromiter(labels(judge.cocoGt.dataset["annotations"], objects), np.int64),
    )
