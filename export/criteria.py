"""Every figure of an artefact that is held against PyTorch's, and whether the difference is one that counts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detheads.evaluation.coco import Statistics
from detheads.evaluation.compare import Differences, Interval
from detheads.export.limits import Limits

ENOUGH_BOXES = 50
"""From so many boxes on a class or size is judged by its difference alone: one box that is found or lost at all IoUs
moves its AP by about 0.02, less than the default limits of a class (0.03 and 0.05) but FP32's, where rounding alone
loses none."""

FEW_IMAGES = 5
"""With fewer images the interval of a class tells nothing: chance may give all of them the same sign."""

ROUNDING = 1e-12
"""By which the difference of two APs may exceed the tolerance that it equals on paper."""

MEANS = {"AP": "mAP", "AP50": "AP50", "AP75": "AP75"}
SIZES = {"small": "APs", "medium": "APm", "large": "APl"}


@dataclass(frozen=True)
class Objects:
    """Boxes that count (no crowd regions).

    Attributes:
        boxes: of all classes.
        classes, images: of each class: its boxes, and the images that show one; by ascending category id.
        sizes: of each of COCO's sizes, by name.
    """

    boxes: int
    classes: Sequence[int]
    images: Sequence[int]
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class Criterion:
    """One figure of both sides, in AP units 0..1.

    Attributes:
        name: ``AP``, ``AP50``, ``AP75``, ``small``, ``medium``, ``large``, or the name of a class.
        kind: the name of its limit: the same, or ``class``.
        boxes: that it was measured on.
        images: that show such boxes; None where that does not matter.
        limit: of the drop.
        gain: limit of ``-drop``; the same as that of the drop when None.
        interval: in which 95 % of the drops lie when the images are drawn anew; None where it was not measured.
    """

    name: str
    kind: str
    live: float
    artefact: float
    boxes: int
    limit: float
    interval: Interval | None = None
    images: int | None = None
    gain: float | None = None

    @property
    def drop(self) -> float:
        """PyTorch minus artefact; positive when the artefact is worse."""
        return self.live - self.artefact

    @property
    def allowed(self) -> float:
        """The limit of a difference in the direction of this one."""
        return self.limit if self.drop > 0 or self.gain is None else self.gain

    @property
    def enough(self) -> bool:
        """Whether there are boxes enough to judge by the difference alone."""
        return self.kind in MEANS or self.boxes >= ENOUGH_BOXES

    @property
    def failed(self) -> bool:
        """Whether the difference is too large: on enough boxes it is, on fewer its whole interval lies beyond."""
        if abs(self.drop) <= self.allowed + ROUNDING:
            return False
        certain = self.interval is not None and self.interval.beyond(self.allowed) and (self.images or 0) >= FEW_IMAGES
        return self.enough or certain

    def told(self) -> str:
        """The difference as a sentence."""
        what = {
            "class": f"AP of class {self.name!r} ({self.boxes} boxes)",
            **{size: f"AP of {size} objects ({self.boxes} boxes)" for size in SIZES},
            **MEANS,
        }[self.kind]
        return f"{what} differs by {self.drop:+.4f}, allowed is {self.allowed:g}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "live": self.live,
            "artefact": self.artefact,
            "drop": self.drop,
            "limit": self.limit,
            "interval": None if self.interval is None else list(self.interval),
            "boxes": self.boxes,
            "enough_boxes": self.enough,
            "failed": self.failed,
        }


def criteria(
    live: Statistics, artefact: Statistics, differences: Differences, objects: Objects, limits: Limits
) -> list[Criterion]:
    """The figures that are defined on both sides: means, sizes, and each class where there are several.

    Args:
        differences: of the artefact's APs less PyTorch's.
    """
    return [
        *_means(live, artefact, differences, objects, limits),
        *_classes(live, artefact, differences, objects, limits),
    ]


def _means(
    live: Statistics, artefact: Statistics, differences: Differences, objects: Objects, limits: Limits
) -> Iterator[Criterion]:
    for name, column in {**{mean: mean for mean in MEANS}, **SIZES}.items():
        own, other = getattr(live, column), getattr(artefact, column)
        if own is not None and other is not None:
            boxes = objects.sizes.get(name, objects.boxes)
            interval = _drop(getattr(differences, name, None))
            yield Criterion(name, name, own, other, boxes, limits.drops[name], interval, None, limits.gains[name])


def _classes(
    live: Statistics, artefact: Statistics, differences: Differences, objects: Objects, limits: Limits
) -> Iterator[Criterion]:
    if len(live.per_class) < 2:
        return
    for column, (name, own) in enumerate(live.per_class.items()):
        other = artefact.per_class[name]
        if own.AP is not None and other.AP is not None:
            boxes, images = objects.classes[column], objects.images[column]
            interval = _drop(differences.classes[column])
            limit, gain = limits.drops["class"], limits.gains["class"]
            yield Criterion(name, "class", own.AP, other.AP, boxes, limit, interval, images, gain)


def _drop(difference: Interval | None) -> Interval | None:
    """The interval of PyTorch less artefact."""
    return None if difference is None else Interval(0.0 - difference.high, 0.0 - difference.low)
