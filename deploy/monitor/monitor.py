"""Watches what a detector sees and finds, and says when that is no longer what its bundle was proven on."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detheads.deploy.detector import Detections, Prepared
from detheads.deploy.monitor.causes import Cause, causes
from detheads.deploy.monitor.drift import FEWEST, Drift, compare
from detheads.deploy.monitor.measures import Values, of_found, of_picture, view
from detheads.foundation.errors import UserError
from detheads.foundation.field_statistics import FieldStatistics
from detheads.foundation.manifest import BundledHead
from detheads.foundation.progress import Remark, unheard

WINDOW: Final = 500
"""Measured pictures that are looked at, the latest ones."""
EVERY: Final = 100
"""Measured pictures between two looks."""
ALIKE: Final = 0.8
"""Product of two views from which they are one: neighbouring frames have 0.9 and more, photographs seldom 0.8."""
OF_ONE_VIEW: Final = 10
"""Of so many pictures in a row that show one view, one is measured."""


@dataclass
class _Watched:
    """One head: what it was proven on, and what it sees."""

    head: BundledHead
    labels: range
    reference: FieldStatistics
    values: deque[Values] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def drifts(self, views: int) -> dict[str, Drift]:
        found = {}
        for name, before in self.reference.histograms.items():
            drift = compare(before, [values[name] for values in self.values if name in values], views)
            if drift is not None:
                found[name] = drift
        return found


class Views:
    """Which pictures show what the one before them showed."""

    def __init__(self) -> None:
        self._latest: NDArray[np.float32] | None = None
        self.repeats = 0

    def see(self, prepared: Prepared) -> bool:
        """Whether a picture shows another view than the one before; ``repeats`` counts those that do not."""
        seen = view(*prepared)
        other = self._latest is None or float(self._latest @ seen) < ALIKE
        if other:
            self._latest = seen
        self.repeats = 0 if other else self.repeats + 1
        return other


class Monitor:
    """Compares pictures and detections of the field with those of the proof. Threads may share it.

    Memory does not grow: the latest :data:`WINDOW` measured pictures count. Where pictures in a row show one view, as
    frames of a camera that stands still, one of :data:`OF_ONE_VIEW` is measured, and all of them count as one when it
    is asked whether a difference may be chance.

    Args:
        name: of the bundle, for sentences.
        heads: whose detections are seen, in the order of :attr:`Detector.heads`.
        on_warning: called with each warning when it comes up, also from the thread that calls :meth:`see`.

    Raises:
        UserError: when a head was never proven, so that there is nothing to compare with.
    """

    def __init__(self, name: str, heads: Sequence[BundledHead], on_warning: Remark = unheard) -> None:
        self._on_warning = on_warning
        self._lock = threading.Lock()
        self._views, self._new = Views(), deque[bool](maxlen=WINDOW)
        self._pictures = self._measured = 0
        self._told: dict[str, str] = {}
        self._watched: list[_Watched] = []
        before = 0
        for head in heads:
            if head.field is None:
                raise UserError(
                    f"{name} says nothing of the pictures it was proven on, so that there is nothing to compare with; "
                    "prove it with 'detheads verify' on pictures that it was not trained on."
                )
            self._watched.append(_Watched(head, range(before, before + len(head.classes)), head.field))
            before += len(head.classes)

    def see(self, prepared: Prepared, found: Detections) -> None:
        """Take note of a picture and all that the graph found in it, whatever its score."""
        with self._lock:
            self._pictures += 1
            other = self._views.see(prepared)
            if self._views.repeats % OF_ONE_VIEW:
                return
        array, letterbox = prepared
        picture = of_picture(array, letterbox)
        size = letterbox.image_width, letterbox.image_height
        outcomes = []
        for watched in self._watched:
            own = found.where((found.labels >= watched.labels.start) & (found.labels < watched.labels.stop))
            labels = own.labels - watched.labels.start
            counted_from, floor = watched.reference.counted_from, watched.head.thresholds.score
            outcomes.append(of_found(own.boxes, own.scores, labels, size, counted_from, floor))
        with self._lock:
            self._measured += 1
            self._new.append(other)
            for watched, outcome in zip(self._watched, outcomes, strict=True):
                watched.values.append({**picture, **outcome})
            due = self._measured % EVERY == 0
        if due:
            self.look()

    def look(self) -> list[str]:
        """The warnings of now; those that were none at the look before go to ``on_warning``."""
        current = {f"{head} {cause.kind}": sentence for head, cause, sentence in self._causes()}
        with self._lock:
            news = [sentence for kind, sentence in current.items() if kind not in self._told]
            self._told = current
        for sentence in news:
            self._on_warning(sentence)
        return list(current.values())

    def verdict(self) -> list[str]:
        """The warnings of now, as sentences; empty where nothing has drifted or too little was seen to tell."""
        return [sentence for _, _, sentence in self._causes()]

    def summary(self) -> str:
        """How many pictures say what: one line."""
        fewest = min(watched.reference.images for watched in self._watched)
        if fewest < FEWEST:
            return f"the bundle was proven on {fewest} pictures, too few to tell drift from; {FEWEST} are the least"
        if self._measured < FEWEST:
            return f"{self._measured} pictures are too few to tell drift; {FEWEST} are the least"
        warnings = len(self.verdict())
        return f"{warnings or 'no'} sign{'' if warnings == 1 else 's'} of drift in {self._measured} pictures"

    def to_dict(self) -> dict[str, Any]:
        """How many pictures were seen, how many different views are compared, the distance of each measure, and the
        warnings."""
        with self._lock:
            heads = {watched.head.name: watched.drifts(self._count_views()) for watched in self._watched}
            counts = {"pictures": self._pictures, "measured": self._measured, "views": self._count_views()}
        return {
            **counts,
            "heads": {
                name: {
                    measure: {
                        "distance": round(drift.distance, 4),
                        "now": round(drift.now, 4),
                        "at_export": round(drift.before, 4),
                        "drifted": drift.drifted,
                    }
                    for measure, drift in drifts.items()
                }
                for name, drifts in heads.items()
            },
            "warnings": self.verdict(),
        }

    def _causes(self) -> list[tuple[str, Cause, str]]:
        """Of each head its name, a cause, and the sentence for a reader."""
        with self._lock:
            views = self._count_views()
            drifts = [(watched.head.name, watched.drifts(views)) for watched in self._watched]
        several = len(drifts) > 1
        return [
            (name, cause, f"head {name}: {cause.sentence}" if several else cause.sentence)
            for name, found in drifts
            for cause in causes(found)
        ]

    def _count_views(self) -> int:
        return max(1, sum(self._new))
