"""Precision-recall curves, by pycocotools."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CURVE_IOUS = (0.5, 0.75)
"""IoU from which a detection counts, of each precision-recall curve."""


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision over recall, the mean of the classes that have objects.

    Attributes:
        iou: from this IoU with an object on a detection is right.
        recall: ``[101]`` from 0 to 1.
        precision: ``[101]``, interpolated as pycocotools does; None without objects.
        highest_recall: that is reached.
    """

    iou: float
    recall: list[float]
    precision: list[float] | None
    highest_recall: float | None

    @property
    def average_precision(self) -> float | None:
        """Mean of ``precision``: what pycocotools calls AP at this IoU."""
        return None if self.precision is None else float(np.mean(self.precision))


def measure_curves(judge: Any) -> list[PrecisionRecall]:
    """A curve for each of ``CURVE_IOUS``, of a judge of :mod:`detheads.evaluation.coco` that has them."""
    curves = []
    for iou in CURVE_IOUS:
        index = judge.params.iouThrs.tolist().index(iou)
        # Objects of all sizes, the best 100 detections.
        precision = judge.eval["precision"][index, :, :, 0, -1]  # [101, K], a column of -1 for a class without objects
        recall = judge.eval["recall"][index, :, 0, -1]  # [K]
        known = recall > -1
        there = bool(known.any())
        curves.append(
            PrecisionRecall(
                iou,
                judge.params.recThrs.tolist(),
                precision[:, known].mean(axis=1).tolist() if there else None,
                float(recall[known].mean()) if there else None,
            )
        )
    return curves


def read_curves(curves: Sequence[PrecisionRecall]) -> str:
    """What the precision-recall curves say, in a sentence."""
    loose, strict = curves[0], curves[-1]
    if loose.average_precision is None or strict.average_precision is None:
        return "The images hold no object, so there is no curve."
    return (
        f"At IoU {loose.iou:g} recall ends at {loose.highest_recall:.3f} (AP {loose.average_precision:.4f}), at IoU "
        f"{strict.iou:g} at {strict.highest_recall:.3f} (AP {strict.average_precision:.4f}): recall missing from the "
        f"first is objects not found, and the {loose.average_precision - strict.average_precision:.4f} of AP between "
        "the curves is objects found with boxes that are not exact."
    )
