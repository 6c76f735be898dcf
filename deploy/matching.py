"""Detections of two sides paired one to one: by this both sides of a proof, and a device and its bundle, are judged.

Torch-free, so that a device judges as the export did.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SAME_BOX_IOU = 0.75
SAME_BOX_PIXELS = 0.5
"""Boxes whose coordinates differ by no more than this are the same whatever their IoU, which says little when tiny."""


class Found(Protocol):
    """Detections of one image: ``boxes [n, 4]`` xyxy, ``scores [n]``, ``labels [n]``."""

    @property
    def boxes(self) -> NDArray[np.float64]: ...
    @property
    def scores(self) -> NDArray[np.float32]: ...
    @property
    def labels(self) -> NDArray[np.integer]: ...


@dataclass
class Comparison:
    """Sums and largest differences over images. Boxes in original pixels, scores in 0..1."""

    images: int = 0
    matched: int = 0
    only_first: int = 0
    only_second: int = 0
    box_difference: float = 0.0
    score_difference: float = 0.0

    @classmethod
    def of(cls, first: Iterable[Found], second: Iterable[Found]) -> "Comparison":
        """Compare two sides image by image; both have the same images in the same order."""
        comparison = cls()
        for one, other in zip(first, second, strict=True):
            comparison.add(one, other)
        return comparison

    @property
    def share(self) -> float:
        """Share of all detections that have a counterpart; 1 when neither side has any."""
        total = 2 * self.matched + self.only_first + self.only_second
        return 2 * self.matched / total if total else 1.0

    def add(self, first: Found, second: Found) -> None:
        """Compare the detections of one image."""
        pairs = match(first, second)
        self.images += 1
        self.matched += len(pairs)
        self.only_first += len(first.scores) - len(pairs)
        self.only_second += len(second.scores) - len(pairs)
        if pairs:
            i, j = np.array(pairs).T
            self.box_difference = max(self.box_difference, float(np.abs(first.boxes[i] - second.boxes[j]).max()))
            self.score_difference = max(self.score_difference, float(np.abs(first.scores[i] - second.scores[j]).max()))

    def to_dict(self) -> dict[str, float | int]:
        return {
            "images": self.images,
            "matched": self.matched,
            "only_first": self.only_first,
            "only_second": self.only_second,
            "matched_share": self.share,
            "max_box_difference_px": self.box_difference,
            "max_score_difference": self.score_difference,
        }


def match(first: Found, second: Found) -> list[tuple[int, int]]:
    """Pair detections of the same class that are the same box, best score of ``first`` first.

    Of several it takes the one least apart where one lies within ``SAME_BOX_PIXELS``, else the one of highest IoU.

    Returns:
        Pairs of row numbers; each row is used at most once.
    """
    if not len(first.scores) or not len(second.scores):
        return []
    free = first.labels[:, None] == second.labels[None, :]
    apart, iou = _apart(first.boxes, second.boxes), overlaps(first.boxes, second.boxes)
    pairs = []
    for row in np.argsort(-first.scores, kind="stable").tolist():
        near = free[row] & (apart[row] <= SAME_BOX_PIXELS)
        if near.any():
            column = int(np.where(near, apart[row], np.inf).argmin())
        else:
            alike = np.where(free[row], iou[row], 0.0)
            column = int(alike.argmax())
            if not alike[column] >= SAME_BOX_IOU:
                continue
        pairs.append((row, column))
        free[:, column] = False
    return pairs


def _apart(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest difference of a coordinate, in pixels ``[n, m]``."""
    return np.asarray(np.abs(first[:, None] - second[None]).max(axis=2))


def overlaps(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU ``[n, m]``, 0 for two boxes without area."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
