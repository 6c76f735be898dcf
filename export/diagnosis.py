"""Why two sides of a proof differ: the pictures that differ most, what their detections have in common, what to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detheads.export.matching import Found, TensorDifference, match, overlaps
from detheads.foundation.manifest import Thresholds

ALIKE = 1e-3
"""Scores that differ by no more are near-equal: rounding decides between them."""
RIVAL_IOU = 0.25
"""A detection of the same class that overlaps this much and scores nearly the same is a rival for its place."""
ROUNDING = 1e-3
"""Tensors before suppression further apart than this differ by more than rounding."""
LISTED = 5
"""Pictures, and detections of a picture, that are named."""


@dataclass(frozen=True)
class Lone:
    """A detection without a counterpart on the other side.

    Attributes:
        side: ``"PyTorch"`` or ``"artefact"``, whichever found it.
        label: class index.
        box: xyxy, original pixels.
        cause: ``"rival"``: the other side kept one that overlaps and scores nearly the same; ``"floor"``: it scores
            barely more than the score threshold; ``"last"``: the other side's table was full; ``""``: none of these.
    """

    side: str
    label: int
    score: float
    box: tuple[float, float, float, float]
    cause: str


@dataclass(frozen=True)
class Apart:
    """A picture whose detections differ.

    Attributes:
        picture: its file name, and which part of it was shown.
        lone: all detections without a counterpart, best first.
    """

    picture: str
    lone: tuple[Lone, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "picture": self.picture,
            "unmatched": len(self.lone),
            "worst": [vars(one) for one in self.lone[:LISTED]],
        }

    def told(self, names: Sequence[str]) -> str:
        """One line for a reader."""
        shown = ", ".join(
            f"{names[one.label]} {one.score:.3f} at {', '.join(f'{side:.0f}' for side in one.box)} only in {one.side}"
            for one in self.lone[:2]
        )
        return f"{self.picture}: {len(self.lone)} without a counterpart, such as {shown}"


def apart(
    pictures: Sequence[str], live: Sequence[Found], artefact: Sequence[Found], thresholds: Thresholds
) -> list[Apart]:
    """The pictures whose detections differ, of the most first."""
    found = []
    for picture, one, other in zip(pictures, live, artefact, strict=True):
        pairs = match(one, other)
        lone = [
            *_lone(one, other, {row for row, _ in pairs}, "PyTorch", thresholds),
            *_lone(other, one, {column for _, column in pairs}, "artefact", thresholds),
        ]
        if lone:
            found.append(Apart(picture, tuple(sorted(lone, key=lambda each: -each.score))))
    return sorted(found, key=lambda each: -len(each.lone))


def advice(
    pictures: Sequence[Apart],
    odd: Sequence[Apart],
    tensors: TensorDifference,
    shares: Sequence[float],
    min_matched: float,
    device: str,
) -> list[str]:
    """The likely cause of unmatched detections and what may be done; empty where all required ones match.

    Args:
        pictures, odd: of the dataset's images and of the pictures of extreme shape.
        shares: of matched detections, all that were compared with ``min_matched``.
        device: torch device of the PyTorch side.
    """
    lowest = min(shares, default=1.0)
    lone = [one for picture in (*pictures, *odd) for one in picture.lone]
    if lowest >= min_matched or not lone:
        return []
    if not (tensors.relative_boxes <= ROUNDING and tensors.scores <= ROUNDING):
        cause = f"the two sides differ before suppression already ({tensors.told()})"
        if device != "cpu":
            return [f"{cause}: on {device} PyTorch rounds products to lower precision; prove with --device cpu"]
        return [f"{cause}: the graph computes something else than the model; export again with the versions in its "
                "manifest, or report it with both reports"]  # fmt: skip
    sentences = ["the tensors before suppression are equal but for rounding"]
    counts = {cause: sum(one.cause == cause for one in lone) for cause in ("rival", "floor", "last")}
    if counts["rival"]:
        where = ", mostly on the grey padding of pictures of extreme shape" if len(odd) > len(pictures) else ""
        sentences.append(
            f"{counts['rival']} of {len(lone)} unmatched detections lost to a rival of nearly the same score{where}: "
            "rounding decides which of the two suppression keeps (a higher --iou at export keeps both)"
        )
    if counts["floor"]:
        sentences.append(f"{counts['floor']} score within {ALIKE:g} of the floor; export with a higher --score")
    if counts["last"]:
        sentences.append(f"{counts['last']} fell off a full table; export with more --max-detections")
    tolerated = np.floor(100 * lowest) / 100
    sentences.append(f"where such detections do not matter, accept them with --min-matched {tolerated:g}")
    return sentences


def _lone(first: Found, second: Found, paired: set[int], side: str, thresholds: Thresholds) -> list[Lone]:
    """The detections of ``first`` that are in no pair."""
    rows = [row for row in range(len(first.scores)) if row not in paired]
    return [
        Lone(
            side,
            int(first.labels[row]),
            float(first.scores[row]),
            tuple(first.boxes[row].tolist()),
            _cause(first, second, row, thresholds),
        )
        for row in rows
    ]


def _cause(first: Found, second: Found, row: int, thresholds: Thresholds) -> str:
    if len(second.scores):
        overlapping = overlaps(first.boxes[row : row + 1], second.boxes)[0] >= RIVAL_IOU
        near = np.abs(second.scores - first.scores[row]) <= ALIKE
        if (overlapping & near & (second.labels == first.labels[row])).any():
            return "rival"
    if first.scores[row] - thresholds.score <= ALIKE:
        return "floor"
    full = len(second.scores) >= thresholds.max_detections
    return "last" if full and first.scores[row] - second.scores.min() <= ALIKE else ""
