"""How far two sets of detections of the same images differ in AP, and how sure that is.

The interval is that of a paired bootstrap: the images are drawn with replacement, each time the same ones for both, and
AP is computed anew (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993). It tells whether other images of
the same kind could turn the order; it knows nothing of other seeds of the training.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detheads.evaluation.coco import judge_at
from detheads.evaluation.inputs import Detections, GroundTruth
from detheads.foundation.progress import Progress, silent

IOUS = tuple(0.5 + 0.05 * step for step in range(10))
DRAWS = 200
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class _ClassVerdicts:
    """Detections of one class, the highest score first, at all IoUs.

    Attributes:
        image: index of the image of each detection, ``[D]``.
        right, counted: ``[T, D]``.
        object_image: index of the image of each object, ``[M]``.
    """

    image: NDArray[np.int64]
    right: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    object_image: NDArray[np.int64]


class Resampled:
    """Detections judged once, whose AP can be had for any multiplicity of the images.

    Args:
        ground_truth, detections: as :func:`detheads.evaluation.coco.evaluate` takes them.
    """

    def __init__(self, ground_truth: GroundTruth, detections: Detections) -> None:
        judge = judge_at(ground_truth, detections, IOUS)
        place = {number: index for index, number in enumerate(judge.params.imgIds)}
        self.images = len(place)
        found: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for entry in judge.evalImgs:
            if entry is not None:
                found[entry["category_id"]].append(entry)
        self.classes = [_class_verdicts(entries, place) for entries in found.values()]

    def average_precision(self, times: NDArray[np.int64]) -> float | None:
        """AP over IoU 0.50:0.95 when image ``i`` occurs ``times[i]`` times; None where no object defines it."""
        values = [value for each in self.classes if (value := _average_precision(each, times)) is not None]
        return float(np.mean(values)) if values else None


def bootstrap_difference(
    first: Resampled, second: Resampled, *, draws: int = DRAWS, seed: int = 0, on_progress: Progress = silent
) -> tuple[float, float] | None:
    """The 95 % interval of the AP of ``second`` less that of ``first``, both judged on the same images.

    None where no draw has an object.
    """
    random = np.random.default_rng(seed)
    differences = []
    for done in range(draws):
        times = np.bincount(random.integers(first.images, size=first.images), minlength=first.images)
        pair = first.average_precision(times), second.average_precision(times)
        if pair[0] is not None and pair[1] is not None:
            differences.append(pair[1] - pair[0])
        on_progress("drawing images anew", done + 1, draws)
    if not differences:
        return None
    low, high = np.quantile(differences, [0.025, 0.975])
    return float(low), float(high)


def _class_verdicts(entries: Sequence[Mapping[str, Any]], place: Mapping[int, int]) -> _ClassVerdicts:
    scores = np.concatenate([entry["dtScores"] for entry in entries])
    order = np.argsort(-scores, kind="stable")
    images = np.repeat([place[entry["image_id"]] for entry in entries], [len(entry["dtScores"]) for entry in entries])
    ignored = np.concatenate([entry["dtIgnore"] for entry in entries], axis=1).astype(bool)
    matched = np.concatenate([entry["dtMatches"] for entry in entries], axis=1) > 0
    objects = [(~np.asarray(entry["gtIgnore"], bool)).sum() for entry in entries]
    return _ClassVerdicts(
        images[order].astype(np.int64),
        (matched & ~ignored)[:, order],
        ~ignored[:, order],
        np.repeat([place[entry["image_id"]] for entry in entries], objects).astype(np.int64),
    )


def _average_precision(verdicts: _ClassVerdicts, times: NDArray[np.int64]) -> float | None:
    objects = int(times[verdicts.object_image].sum())
    if not objects:
        return None
    weights = times[verdicts.image]
    right = np.cumsum(verdicts.right * weights, axis=1)
    kept = np.cumsum(verdicts.counted * weights, axis=1)
    precision = np.divide(right, kept, out=np.zeros(right.shape), where=kept > 0)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    values = []
    for hits, interpolated in zip(right, precision, strict=True):
        places = np.searchsorted(hits / objects, RECALLS, side="left")
        values.append(np.append(interpolated, 0.0)[places].mean())
    return float(np.mean(values))
