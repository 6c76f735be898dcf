"""Two implementations compared: their detections paired one to one, and their tensors before suppression."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detheads.ops.decisions import Decision

SAME_BOX_IOU = 0.75
SAME_BOX_PIXELS = 0.5
"""Boxes whose coordinates differ by no more than this are the same whatever their IoU, which says little when tiny."""

BEST_BOXES = 100
"""Boxes of an image that are compared apart from all: as many as there are detections at most."""


Dense = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Boxes ``[N, 4]`` and scores ``[N, K]`` of one image before suppression."""


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


@dataclass
class TensorDifference:
    """Largest absolute differences before suppression, over some images.

    Attributes:
        boxes: input pixels, over all boxes.
        relative_boxes: the same as a share of the box's longer side, or of a pixel where that is longer.
        best_boxes: input pixels, over the ``BEST_BOXES`` boxes of highest score of each image: those that can become
            detections. Boxes that nothing stands behind may be degenerate, and rounding moves those furthest.
        scores: 0..1, over all boxes and classes.
        chosen_between: of the numbers that the head made its choices between, as a share of the number where that is
            larger than 1.
        ties: choices that the artefact made otherwise than PyTorch would have, and as its own numbers say.
        broken: decisions that do not follow from the artefact's own numbers.
    """

    images: int = 0
    boxes: float = 0.0
    relative_boxes: float = 0.0
    best_boxes: float = 0.0
    scores: float = 0.0
    chosen_between: float = 0.0
    ties: int = 0
    broken: int = 0

    def add(
        self,
        live_boxes: NDArray[np.float32],
        live_scores: NDArray[np.float32],
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
    ) -> None:
        """Compare one image: boxes ``[N, 4]`` in input pixels, scores ``[N, K]``."""
        apart = np.abs(live_boxes - boxes)
        longer = np.maximum(1.0, np.abs(live_boxes[:, 2:] - live_boxes[:, :2]).max(axis=1, keepdims=True))
        best = live_scores.max(axis=1).argsort()[::-1][:BEST_BOXES]
        self.images += 1
        self.boxes = _largest(self.boxes, apart)
        self.relative_boxes = _largest(self.relative_boxes, apart / longer)
        self.best_boxes = _largest(self.best_boxes, apart[best])
        self.scores = _largest(self.scores, np.abs(live_scores - scores))

    def add_decision(self, decision: Decision) -> None:
        """Compare a decision of the head, one of PyTorch that an artefact made too."""
        if decision.others is None or not decision.follows:
            self.broken += 1
            return
        values, own, others, choice = (
            tensor.detach().cpu().numpy() for tensor in (decision.values, decision.choice, *decision.others)
        )
        with np.errstate(invalid="ignore"):
            apart = np.where(values == others, 0.0, np.abs(values - others) / np.maximum(1.0, np.abs(values)))
        self.chosen_between = _largest(self.chosen_between, apart)
        self.ties += int((own != choice).sum())

    def include(self, other: "TensorDifference") -> None:
        """Take in what was measured on further images."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            setattr(self, name, mine + value if isinstance(value, int) else float(np.maximum(mine, value)))

    def within(self, tolerance: float) -> bool:
        """Whether two programs computed the same but for rounding; never where a number is none."""
        measured = (self.relative_boxes, self.scores, self.chosen_between)
        return not self.broken and all(value <= tolerance for value in measured)

    def told(self) -> str:
        """The largest differences, for a sentence."""
        further = f", {self.chosen_between:.3g} in what the head chooses between" if self.chosen_between else ""
        further += f", and {self.broken} choices that do not follow from it" if self.broken else ""
        pixels = f"{self.boxes:.3g} pixels ({self.relative_boxes:.3g} of a box's side)"
        return f"{pixels} and {self.scores:.3g} in score{further}"

    def to_dict(self) -> dict[str, float | int]:
        return {
            "images": self.images,
            "max_box_difference_px": self.boxes,
            "max_relative_box_difference": self.relative_boxes,
            "max_box_difference_px_best": self.best_boxes,
            "max_score_difference": self.scores,
            "max_decision_difference": self.chosen_between,
            "ties": self.ties,
        }


SAME = 1e-3
"""Candidates are the same when their scores differ by no more, and their boxes by no more of their longer side."""


def in_the_order_of(first: Dense, second: Dense) -> Dense:
    """The rows of ``second`` paired one to one with those of ``first`` that are the same candidate.

    A head that selects by operators of its own gives its candidates no fixed rows: near-equal ones change places, and
    at the edge of the selection one may come for another. Rows without a counterpart are paired as they stand, so that
    their difference shows, but for near-ties at the edge: where no candidate kept has a lower best score (by more than
    ``SAME``) than those left over on either side, these are taken for the same.

    Args:
        first, second: boxes ``[N, 4]`` and scores ``[N, K]`` of one image.
    """
    (boxes, scores), (other_boxes, other_scores) = first, second
    longer = np.maximum(1.0, np.abs(boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True))

    def unlike(rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.floating]:
        """``[len(rows), len(columns)]``, at most 1 for the same candidate."""
        apart = np.abs(boxes[rows, None] - other_boxes[None, columns]).max(axis=2) / longer[rows]
        return np.asarray(
            np.maximum(apart, np.abs(scores[rows, None] - other_scores[None, columns]).max(axis=2)) / SAME
        )

    column_of = np.arange(len(boxes))
    apart = np.maximum((np.abs(boxes - other_boxes) / longer).max(axis=1), np.abs(scores - other_scores).max(axis=1))
    open_rows = np.flatnonzero(~(apart <= SAME))
    free = list(open_rows)
    left = []
    for row in open_rows:  # one by one, for all pairs at once may be more than there is memory for
        distances = unlike(np.array([row]), np.array(free))[0]
        nearest = int(np.argmin(distances))
        if distances[nearest] <= 1:
            column_of[row] = free.pop(nearest)
        else:
            left.append(row)
    column_of[left] = free
    boxes_then, scores_then = other_boxes[column_of], other_scores[column_of]
    edge = min(scores.max(axis=1).min(initial=1.0), other_scores.max(axis=1).min(initial=1.0)) + SAME
    tied = [row for row in left if scores[row].max() <= edge and scores_then[row].max() <= edge]
    boxes_then[tied], scores_then[tied] = boxes[tied], scores[tied]
    return boxes_then, scores_then


def _largest(so_far: float, values: NDArray[np.floating]) -> float:
    """The maximum, NaN winning (``max`` of Python would lose it)."""
    return float(np.maximum(so_far, values.max(initial=0.0)))
