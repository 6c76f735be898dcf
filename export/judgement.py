"""When a proof holds, and what it cannot show."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from detheads.export.criteria import ENOUGH_BOXES, Criterion
from detheads.export.limits import Limits
from detheads.export.matching import Comparison, TensorDifference
from detheads.export.report import ArtefactResult
from detheads.foundation.manifest import Thresholds

CACHE_REMARK = 0.01
"""Difference between cache and live mAP that deserves a note; it says nothing about the artefact."""

NAMED = 3
"""Classes that a sentence names."""

FEW_IMAGES = 20
"""Fewer images give no interval that can be relied on: the draws know no more pictures than these, and with n images
the interval is too narrow by a share of about 1/(2n)."""

IOUS = 10
"""That AP is a mean over."""

HOPELESS = 100
"""An estimate of so many times as many images is not worth giving."""


def reasons(
    artefacts: Sequence[ArtefactResult],
    odd: Comparison,
    tensors: TensorDifference,
    live_detections: int,
    limits: Limits,
) -> list[str]:
    """Why the proof fails; empty when it holds.

    Differences count in both directions: an artefact that is better than the model it was made from is another model.
    Limits below the usual ones are for losses alone (see :class:`detheads.export.limits.Limits`).

    Args:
        odd: both sides on pictures of extreme shape.
        live_detections: number of PyTorch's own detections on all images.
    """
    found = []
    for artefact in artefacts:
        found += [f"{artefact.title}: {sentence}" for sentence in _failures(artefact.criteria)]
        for name, comparison in (("PyTorch", artefact.versus_live), ("its own batch of 1", artefact.versus_single)):
            if comparison.share < limits.matched:
                found.append(
                    f"{artefact.title}: only {100 * comparison.share:.2f} % of detections match those of {name}, "
                    f"required are {100 * limits.matched:g} %"
                )
    if odd.share < limits.matched:
        found.append(f"images of extreme shape: only {100 * odd.share:.2f} % of detections match")
    if not np.isfinite([tensors.boxes, tensors.scores]).all():
        found.append("the artefact gives numbers that are not finite")
    if live_detections == 0:
        found.append("PyTorch itself detects nothing on these images, so equality proves nothing; train longer")
    return found


def _failures(criteria: Sequence[Criterion]) -> Iterator[str]:
    """A sentence for each mean and size that fails, and one for all classes, the worst first."""
    yield from (each.told() for each in criteria if each.failed and each.kind != "class")
    classes = sorted((each for each in criteria if each.failed and each.kind == "class"), key=_size, reverse=True)
    if classes:
        further = f", and {len(classes) - NAMED} more classes" if len(classes) > NAMED else ""
        yield "; ".join(each.told() for each in classes[:NAMED]) + further


def _size(criterion: Criterion) -> float:
    return abs(criterion.drop)


def shortcomings(criteria: Sequence[Criterion], images: int) -> list[str]:
    """Why these images do not prove the tolerance of the mAP for others like them; empty where they do.

    Args:
        criteria: of the artefact and batch size furthest from PyTorch.
    """
    ap = next(each for each in criteria if each.kind == "AP")
    found = []
    if IOUS * ap.boxes * ap.limit < 1 and ap.limit:
        found.append(
            f"one box more or less at one IoU moves the mAP of {ap.boxes} boxes by about {1 / (IOUS * ap.boxes):.2g}, "
            f"more than the tolerance of {ap.limit:g}: at least {math.ceil(1 / (IOUS * ap.limit))} boxes are needed"
        )
    if images < FEW_IMAGES:
        found.append(f"{images} images say little of others: at least {FEW_IMAGES} are needed")
    elif ap.interval is not None and not ap.interval.within(ap.limit):
        found.append(
            f"other images of this kind may well show a mAP difference from {ap.interval.low:+.4f} to "
            f"{ap.interval.high:+.4f} (95 % interval), and the tolerance is {ap.limit:g}{_settling(ap, images)}"
        )
    return found


def _settling(ap: Criterion, images: int) -> str:
    """How many images would do: an interval shrinks with the square root of their number."""
    assert ap.interval is not None
    room = ap.limit - abs(ap.drop)
    half = max(ap.interval.high - ap.drop, ap.drop - ap.interval.low)
    if room <= 0 or (half / room) ** 2 > HOPELESS:
        return ""
    return f"; about {round(images * (half / room) ** 2, -1):.0f} images would settle it"


def class_remarks(criteria: Sequence[Criterion]) -> list[str]:
    """A note on the classes that have too few boxes to be judged by their difference alone."""
    few = [each for each in criteria if each.kind == "class" and not each.enough]
    classes = sum(each.kind == "class" for each in criteria)
    if not few:
        return []
    names = ", ".join(each.name for each in sorted(few, key=lambda each: each.boxes)[:NAMED])
    further = f" and {len(few) - NAMED} more" if len(few) > NAMED else ""
    return [
        f"{len(few)} of {classes} classes have fewer than {ENOUGH_BOXES} boxes ({names}{further}): by themselves they "
        "are judged only where their whole interval lies beyond the limit"
    ]


def full_remarks(full: int, images: int, thresholds: Thresholds) -> list[str]:
    """A note when tables of detections are full."""
    if not full:
        return []
    return [
        f"{full} of {images} images have a full table of {thresholds.max_detections} detections, so that more may be "
        f"found than are returned; export with a larger --max-detections, or a --score above {thresholds.score:g}"
    ]


def cache_remarks(map_cache: float | None, map_live: float) -> list[str]:
    """A note when the head's AP on the feature cache is not that on the image files; both in 0..1."""
    if map_cache is None or abs(map_live - map_cache) <= CACHE_REMARK:
        return []
    return [
        f"the figure from the feature cache differs by {map_live - map_cache:+.4f}: it was measured on other images, "
        "or the cache's storage type costs accuracy"
    ]
