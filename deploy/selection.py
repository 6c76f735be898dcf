"""Which detections are wanted: the lowest score of each class, from what a command line says."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detheads.foundation.errors import UserError, suggest

SHOWN = 12
"""Names of classes that a sentence lists."""


def lowest_scores(
    names: Sequence[str],
    scores: Sequence[str] = (),
    only: Sequence[str] = (),
    without: Sequence[str] = (),
    floors: NDArray[np.floating] | None = None,
) -> NDArray[np.float32]:
    """The score from which on a detection of each class is wanted, ``[K]``; infinity for classes that are not.

    ``found.above(lowest_scores(...))`` is what is wanted of ``found``. Several entries may stand in one string, with
    commas between them; a string that is the name of a class is that class, whatever its commas.

    Args:
        names: of the classes, by label.
        scores: a number for all classes, or ``NAME=NUMBER`` for one, which goes before it.
        only: classes that are wanted; all when empty.
        without: classes that are not.
        floors: the score of each class of which nothing is said, ``[K]``; 0 when None.

    Raises:
        UserError: for an unknown class, a score that is none, a class with two scores, or when no class is left.
    """
    chosen = _chosen(names, only, "--classes") if only else set(range(len(names)))
    chosen -= _chosen(names, without, "--except")
    if not chosen:
        raise UserError("no class is left that is wanted; leave one of them out of --except.")
    of: dict[str, float] = {}
    for text in scores:
        for part in [text] if text.rpartition("=")[0] in names else text.split(","):
            name, _, number = part.strip().rpartition("=")
            if name:
                _labels(names, name, "--score")
            if name in of:
                raise UserError(f"--score is given twice for {name or 'all classes'}; give it once.")
            of[name] = _number(number)
    floors = np.zeros(len(names)) if floors is None else floors
    lowest = [
        of.get(name, of.get("", floors[label])) if label in chosen else math.inf for label, name in enumerate(names)
    ]
    return np.array(lowest, np.float32)


def _chosen(names: Sequence[str], texts: Sequence[str], option: str) -> set[int]:
    parts = [part for text in texts for part in ([text] if text in names else text.split(","))]
    return {label for part in parts for label in _labels(names, part.strip(), option)}


def _labels(names: Sequence[str], name: str, option: str) -> list[int]:
    """Every label of that name: two heads of a bundle may find the same class."""
    found = [label for label, known in enumerate(names) if known == name]
    if not found:
        known = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        raise UserError(f"{option}: the bundle has no class {name!r}; it has {known}.{suggest(name, names)}")
    return found


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise UserError(f"--score takes numbers from 0 to 1, or CLASS=NUMBER such as person=0.4, not {text[:80]!r}.")
    return number
