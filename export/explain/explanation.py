"""What an explanation says: where the artefact departs, why, and on which pictures one sees it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal[
    "channel order",
    "resize",
    "padding",
    "letterbox",
    "normalisation",
    "overflow",
    "quantised layer",
    "rounding",
    "class weights",
    "weights",
    "decode",
    "suppression",
    "ties",
    "graph",
    "unknown",
]


@dataclass(frozen=True)
class Cause:
    """A likely cause.

    Attributes:
        stage: where it acts.
        sentence: for a reader, with the figures it stands on.
        evidence: the figures as JSON values.
    """

    kind: Kind
    stage: str
    sentence: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "stage": self.stage, "sentence": self.sentence, "evidence": dict(self.evidence)}


@dataclass(frozen=True)
class Departure:
    """The first tensor that departs.

    Attributes:
        stage: see ``trail.STAGES``, or ``suppression``.
        module: of PyTorch, where it is one.
        tensor: name in the graph.
        error: relative, root mean square; infinite where numbers are not finite.
        limit: what rounding explains.
        before: the error of what went into it.
    """

    stage: str
    module: str = ""
    tensor: str = ""
    error: float | None = None
    limit: float | None = None
    before: float | None = None

    def told(self) -> str:
        where = f" at {self.module}" if self.module else ""
        tensor = f" (tensor {self.tensor})" if self.tensor else ""
        if self.error is None or self.limit is None:
            return f"departs in stage {self.stage}{where}{tensor}"
        if self.error == float("inf"):
            return f"departs in stage {self.stage}{where}{tensor}: its numbers are not finite"
        before = "" if self.before is None else f", and what goes into it differs by {100 * self.before:.2g} %"
        return (
            f"departs in stage {self.stage}{where}{tensor}: it differs by {100 * self.error:.3g} %, of which rounding "
            f"explains {100 * self.limit:.2g} %{before}"
        )

    def to_dict(self) -> dict[str, Any]:
        values = vars(self)
        return {name: None if value == float("inf") else value for name, value in values.items()} | {
            "finite": self.error != float("inf")
        }


@dataclass(frozen=True)
class Explanation:
    """Why two sides differ, or that they do not.

    Attributes:
        departure: None when no stage departs.
        causes: the likeliest first; empty where nothing departs.
        trail: the largest error of each stage, its limit and its module, in order.
        pictures: names of the pictures it was made on, of the largest difference first.
        seconds: that it took.
    """

    departure: Departure | None
    causes: Sequence[Cause]
    trail: Sequence[Mapping[str, Any]] = ()
    pictures: Sequence[str] = ()
    seconds: float = 0.0

    @property
    def cause(self) -> Cause | None:
        """The likeliest."""
        return self.causes[0] if self.causes else None

    def told(self) -> list[str]:
        """For a reader: where, why, what to look at."""
        if self.departure is None and not self.causes:
            return ["no departure: every tensor, from the picture to the final boxes, differs by rounding only"]
        found = [] if self.departure is None else [self.departure.told()]
        found += [
            f"{'likely cause' if not place else 'also'}: {cause.sentence}" for place, cause in enumerate(self.causes)
        ]
        if self.pictures:
            found.append(f"to be seen on {', '.join(self.pictures[:3])}")
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "departure": None if self.departure is None else self.departure.to_dict(),
            "causes": [cause.to_dict() for cause in self.causes],
            "trail": [dict(stage) for stage in self.trail],
            "pictures": list(self.pictures),
            "seconds": round(self.seconds, 2),
        }
