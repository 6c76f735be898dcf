"""One side's detections as pycocotools judges them, once for every use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detheads.data.dataset import Dataset
from detheads.evaluation.coco import Statistics, judge_all, statistics_of
from detheads.evaluation.compare import AREAS, Resampled
from detheads.export.criteria import Objects
from detheads.report.curves import PrecisionRecall, measure_curves

SIZES = ((0, 32**2), (32**2, 96**2), (96**2, 1e10))
"""Areas of small, medium and large objects in pixels, both ends included: COCO's."""


@dataclass(frozen=True)
class Judged:
    """The statistics of detections, their curves, and what a bootstrap needs of them."""

    statistics: Statistics
    curves: list[PrecisionRecall]
    resampled: Resampled


def judged(dataset: Dataset, results: Sequence[Mapping[str, Any]]) -> Judged:
    """What pycocotools says of COCO results for a dataset."""
    judge = judge_all(dataset.coco_json(), results)
    return Judged(statistics_of(judge), measure_curves(judge), Resampled(judge))


def objects_of(dataset: Dataset, resampled: Resampled) -> Objects:
    """The boxes that count.

    Args:
        resampled: any side's detections of the same dataset.
    """
    areas = np.concatenate([objects.area[~objects.crowd] for objects in dataset.objects])
    sizes = {
        name: int(np.count_nonzero((areas >= low) & (areas <= high)))
        for name, (low, high) in zip(AREAS[1:], SIZES, strict=True)
    }
    return Objects(len(areas), resampled.boxes.tolist(), resampled.showing.tolist(), sizes)
