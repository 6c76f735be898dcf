"""How far two sides' detections are apart, as one number: to rank pictures, to recognise what reproduces a fault."""

from collections.abc import Iterable, Sequence

import numpy as np

from detheads.export.matching import Found, match, overlaps

REPRODUCES = 0.2
"""A changed reference explains an artefact when it leaves at most this share of their distance. Between the two lies
what a second, smaller fault leaves; a wrong guess leaves more than half."""

SAME = 1e-3
"""Sides no further apart are the same but for rounding."""


def distance(first: Found, second: Found) -> float:
    """0 for equal detections, 1 for none in common.

    Each detection counts with its score: fully where it has no counterpart, else by what is missing in overlap and by
    the difference in score.
    """
    total = float(first.scores.sum() + second.scores.sum())
    if total == 0:
        return 0.0
    alone_first, alone_second = np.ones(len(first.scores), bool), np.ones(len(second.scores), bool)
    apart = 0.0
    for row, column in match(first, second):
        alone_first[row] = alone_second[column] = False
        scores = float(first.scores[row]), float(second.scores[column])
        missing = 1.0 - float(overlaps(first.boxes[row : row + 1], second.boxes[column : column + 1])[0, 0])
        apart += 2 * abs(scores[0] - scores[1]) + missing * sum(scores)
    apart += float(first.scores[alone_first].sum() + second.scores[alone_second].sum())
    return apart / total


def worst_first(first: Sequence[Found], second: Sequence[Found]) -> list[int]:
    """Places of the pictures, that of the largest distance first; equal ones in order."""
    apart = [distance(one, other) for one, other in zip(first, second, strict=True)]
    return sorted(range(len(apart)), key=lambda place: -apart[place])


def mean_distance(first: Iterable[Found], second: Iterable[Found]) -> float:
    """Mean over pictures."""
    return float(np.mean([distance(one, other) for one, other in zip(first, second, strict=True)]))
