"""Whether values from the field could come from the pictures that a bundle was proven on.

The distance of two histograms is that of Kolmogorov and Smirnov: the largest difference of their cumulated shares. It
needs no choice of bins' weights, and its distribution under "nothing has changed" is known.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detheads.deploy.monitor.measures import Measure
from detheads.foundation.field_statistics import Histogram

BINS: Final = 64
FEWEST: Final = 20
"""Values on each side from which anything is said."""
RARE: Final = 1e-4
"""Chance of a false alarm from one measure at one look, as Kolmogorov's distribution has it."""
NEAR: Final = 0.25
"""A smaller distance is no drift, however sure it is. Measured on 350 photographs of coco-person, EfficientNet-Lite0:
two halves of them 0.04 to 0.11; red and blue swapped 0.39, half as bright 0.79, blurred by one pixel 0.91."""
OUTSIDE: Final = 0.5
"""Share of the values beyond all that was seen at export that is drift by itself: it needs no different views."""


@dataclass(frozen=True)
class Drift:
    """How one measure has changed.

    Attributes:
        distance: 0..1, the largest difference of the cumulated shares.
        mirrored: the distance from the values at export with their sign changed.
        outside: share of the values beyond all that was seen at export.
        before, now: medians at export and in the field.
        higher: where the two depart most, the field has the higher values.
        drifted: it is no chance.
    """

    distance: float
    mirrored: float
    outside: float
    before: float
    now: float
    higher: bool
    drifted: bool


def histogram(measure: Measure, values: Sequence[float]) -> Histogram:
    """The values of a measure in :data:`BINS` equal bins."""
    empty = Histogram(low=measure.low, high=measure.high, counts=[0] * BINS)
    return empty.model_copy(update={"counts": _counts(empty, values).tolist()})


def compare(before: Histogram, values: Sequence[float], views: int) -> Drift | None:
    """Hold the values of a measure against those at export; None where there are too few of either.

    Args:
        views: how many different things the camera looked at: pictures of one view say the same again.
    """
    reference, now = np.array(before.counts), _counts(before, values)
    seen, count = int(reference.sum()), len(values)
    if min(seen, count) < FEWEST:
        return None
    apart = _apart(reference, now)
    distance = abs(apart)
    filled = np.flatnonzero(reference)
    outside = float(now[: filled[0]].sum() + now[filled[-1] + 1 :].sum()) / count
    independent = min(views, count)
    limit = max(NEAR, math.sqrt(math.log(2 / RARE) / 2 * (independent + seen) / (independent * seen)))
    return Drift(
        distance=distance,
        mirrored=abs(_apart(reference[::-1], now)),
        outside=outside,
        before=_median(before),
        now=float(np.median(values)),
        higher=apart > 0,
        drifted=distance >= limit or outside >= OUTSIDE,
    )


def _counts(like: Histogram, values: Sequence[float]) -> NDArray[np.int64]:
    bins = len(like.counts)
    places = (np.asarray(values, dtype=np.float64) - like.low) / (like.high - like.low) * bins
    return np.bincount(places.astype(int).clip(0, bins - 1), minlength=bins)


def _apart(before: NDArray[np.int64], now: NDArray[np.int64]) -> float:
    """The largest difference of the cumulated shares, positive where ``now`` has the higher values."""
    difference = np.cumsum(before) / before.sum() - np.cumsum(now) / now.sum()
    return float(difference[np.abs(difference).argmax()])


def _median(of: Histogram) -> float:
    """The middle of the bin that holds it."""
    counts = np.array(of.counts)
    place = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
    return of.low + (place + 0.5) * (of.high - of.low) / len(counts)
