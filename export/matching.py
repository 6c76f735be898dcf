"""Two implementations compared: their detections paired one to one, and their tensors before suppression."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detheads.deploy.matching import Comparison as Comparison
from detheads.deploy.matching import Found as Found
from detheads.deploy.matching import match as match
from detheads.deploy.matching import overlaps as overlaps
from detheads.ops.decisions import Decision

BEST_BOXES = 100
"""Boxes of an image that are compared apart from all: as many as there are detections at most."""


Dense = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Boxes ``[N, 4]`` and scores ``[N, K]`` of one image before suppression."""


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
