"""Boxes judged all together: numbers that are plausible one by one and impossible as a whole, with the likely cause."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detheads.data.dataset import Dataset
from detheads.data.findings import Finding
from detheads.data.layout import Convention
from detheads.data.parsed import CLIPPED, Parsed

GROSS = 0.05
"""A box that sticks out of its picture by more than this share of a side is no matter of rounding."""
SUSPICIOUS = 0.1
"""Share of boxes that stick out grossly from which another reading of the numbers is tried."""
CONVINCING = 0.98
"""Share of boxes that another reading must make good."""
STRICT, ALL = 0.005, 0.995
"""The same two for a shift by half a box, which moves small objects by little."""
FEW = 0.01
"""Below this share small, cut and repeated boxes are a note, above it a warning."""
MANY_BOXES = 20
"""Rules about sizes and places need this many boxes to say anything."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Stated:
    """The boxes of one split as its files state them.

    Attributes:
        split: the split's name.
        parsed: what was read.
        convention: how the files state boxes.
    """

    split: str
    parsed: Parsed
    convention: Convention

    @cached_property
    def sizes(self) -> Numbers:
        """Width and height of each box's picture, ``[N, 2]``."""
        sizes = np.array([(image.width, image.height) for image in self.parsed.images], np.float64).reshape(-1, 2)
        return sizes[self.parsed.image_index]

    @cached_property
    def boxes(self) -> Numbers:
        """xyxy in pixels ``[N, 4]``, bounded so that sums and products of absurd numbers stay numbers."""
        return np.clip(self.parsed.boxes, -1e12, 1e12)

    @cached_property
    def finite(self) -> NDArray[np.bool_]:
        return np.asarray(np.isfinite(self.parsed.boxes).all(axis=1), dtype=np.bool_)

    @cached_property
    def numbers(self) -> Numbers:
        """The four numbers in the layout's own order and unit, ``[N, 4]``."""
        corner, far = self.boxes[:, :2], self.boxes[:, 2:]
        if self.convention == "corners":
            return self.boxes
        if self.convention == "shares":
            return np.concatenate([(corner + far) / 2 / self.sizes, (far - corner) / self.sizes], axis=1)
        return np.concatenate([corner, far - corner], axis=1)

    @cached_property
    def percent(self) -> bool:
        """All numbers are up to 100, and most pictures are far larger."""
        return bool(self.numbers[self.finite].max(initial=0) <= 101 and np.median(self.sizes) >= 200)

    def beyond(self, boxes: Numbers, tolerance: float) -> NDArray[np.bool_]:
        """Which boxes, xyxy in pixels, have no size or stick out of their picture by more than a share of a side."""
        out = np.maximum(-boxes[:, :2], boxes[:, 2:] - self.sizes) > tolerance * self.sizes
        return np.asarray((out | (boxes[:, 2:] <= boxes[:, :2])).any(axis=1), dtype=np.bool_)

    def read_as(self, reading: "_Reading") -> Numbers:
        """The boxes, xyxy in pixels, when their numbers mean something else."""
        return reading(self.numbers[:, :2], self.numbers[:, 2:], self.sizes)


def _corner_size(corner: Numbers, size: Numbers) -> Numbers:
    return np.concatenate([corner, corner + size], axis=1)


def _center_size(center: Numbers, size: Numbers) -> Numbers:
    return np.concatenate([center - size / 2, center + size / 2], axis=1)


_Reading = Callable[[Numbers, Numbers, Numbers], Numbers]
"""First and last two numbers of boxes and their pictures' sizes, ``[N, 2]`` each -> xyxy in pixels, ``[N, 4]``."""

_STATES: dict[Convention, str] = {
    "sizes": "corner and size in pixels",
    "shares": "centre and size as shares of the picture",
    "corners": "corners in pixels",
}
_PIXEL_READINGS: dict[str, _Reading] = {
    "corners (x1, y1, x2, y2)": lambda one, two, _: np.concatenate([one, two], axis=1),
    "centre and size": lambda one, two, _: _center_size(one, two),
    "y before x": lambda one, two, _: _corner_size(one[:, ::-1], two[:, ::-1]),
}
_CORNER_READINGS: dict[str, _Reading] = {
    "corner and size": lambda one, two, _: _corner_size(one, two),
    "centre and size": lambda one, two, _: _center_size(one, two),
    "y before x": lambda one, two, _: np.concatenate([one[:, ::-1], two[:, ::-1]], axis=1),
}
_SHARE_READINGS: dict[str, _Reading] = {
    "corners (x1, y1, x2, y2)": lambda one, two, size: np.concatenate([one * size, two * size], axis=1),
    "corner and size": lambda one, two, size: _corner_size(one * size, two * size),
    "y before x": lambda one, two, size: _center_size(one[:, ::-1] * size, two[:, ::-1] * size),
    "percent of the picture": lambda one, two, size: _center_size(one * size / 100, two * size / 100),
    "pixels": lambda one, two, _: _center_size(one, two),
    "corners in pixels": lambda one, two, _: np.concatenate([one, two], axis=1),
    "corner and size in pixels": lambda one, two, _: _corner_size(one, two),
}


_READINGS: Mapping[Convention, Mapping[str, _Reading]] = {
    "sizes": _PIXEL_READINGS,
    "shares": _SHARE_READINGS,
    "corners": _CORNER_READINGS,
}


def judge_boxes(stated: Stated) -> list[Finding]:
    """What the boxes of one split look like as a whole; nothing where nothing is odd.

    Where all numbers are misread, that alone is said: sizes and places follow from it.
    """
    if not stated.finite.any():
        return []
    if (finding := misread(stated)) is not None:
        return [finding]
    rules = (_places, _sub_pixel, _cut, _repeated, _two_classes, _whole_pictures, _one_size, _one_place, _areas)
    return [finding for rule in rules if (finding := rule(stated)) is not None]


def misread(stated: Stated) -> Finding | None:
    """How the numbers of all boxes are likely to be misread; None where nothing speaks for it."""
    if not stated.finite.any():
        return None
    return normalised(stated) or _conventions(stated)


def with_doubts(dataset: Dataset, stated: Stated, source: Path) -> Dataset:
    """The dataset, with a remark when all its boxes seem to be misread."""
    if (finding := misread(stated)) is None:
        return dataset
    return replace(dataset, remarks=(*dataset.remarks, f"{source}: {finding.sentence}."))


def normalised(stated: Stated) -> Finding | None:
    """Shares of the picture where pixels are expected."""
    sized = stated.sizes[stated.finite].min(axis=1) >= 16
    shares = (np.abs(stated.numbers[stated.finite]) <= 1 + GROSS).all(axis=1) & sized
    if stated.convention == "shares" or shares.sum() < max(1, CONVINCING * len(shares)):
        return None
    sentence = "the boxes look normalised: all numbers lie between 0 and 1, and this layout states pixels"
    return Finding("warning", "normalised boxes", f"{stated.split}: {sentence}", int(shares.sum()))


def _conventions(stated: Stated) -> Finding | None:
    """Corners given as sizes and the like: many boxes leave their pictures, and all stay inside when read otherwise."""
    total = stated.finite.sum()
    gross = stated.beyond(stated.boxes, GROSS) & stated.finite
    if gross.sum() < 2 or gross.sum() < SUSPICIOUS * total:
        return _shifted_by_half(stated)
    for called, reading in _READINGS[stated.convention].items():
        if called.startswith("percent") and not stated.percent:
            continue  # pixels of small pictures look like percent
        good = ~stated.beyond(stated.read_as(reading), GROSS) & stated.finite
        if good.sum() >= CONVINCING * total:
            return _other_convention(stated, gross, called)
    sentence = f"{_of(gross, stated)} reach far beyond their pictures; they may belong to pictures of another size"
    return Finding("warning", "boxes beyond their pictures", f"{stated.split}: {sentence}", int(gross.sum()))


def _shifted_by_half(stated: Stated) -> Finding | None:
    """A corner taken for a centre, or the reverse, with small objects: few stick out far, and none does otherwise."""
    out = stated.beyond(stated.boxes, STRICT) & stated.finite
    if out.sum() < MANY_BOXES or out.sum() < SUSPICIOUS * stated.finite.sum():
        return None
    for called in ("centre and size", "corner and size"):
        reading = _READINGS[stated.convention].get(called)
        if reading is not None:
            good = ~stated.beyond(stated.read_as(reading), STRICT) & stated.finite
            if good.sum() >= ALL * stated.finite.sum():
                return _other_convention(stated, out, called)
    return None


def _other_convention(stated: Stated, out: NDArray[np.bool_], called: str) -> Finding:
    sentence = (
        f"{_of(out, stated)} reach beyond their pictures, and all fit when the numbers are read as {called}; this "
        f"layout states {_STATES[stated.convention]}"
    )
    return Finding("warning", "other box convention", f"{stated.split}: {sentence}", int(out.sum()))


def _places(stated: Stated) -> Finding | None:
    """All boxes in the upper left part: they were made for smaller pictures."""
    if stated.finite.sum() < MANY_BOXES:
        return None
    far = stated.boxes[stated.finite, 2:]
    reach = (far / stated.sizes[stated.finite]).max()
    if reach > 0.6 and not (stated.percent and far.max() <= 101):
        return None
    cause = "their numbers may be percent" if stated.percent else "they may belong to smaller pictures"
    sentence = f"no box reaches beyond {100 * reach:.0f} % of its picture from the upper left corner; {cause}"
    return Finding("warning", "boxes of smaller pictures", f"{stated.split}: {sentence}", int(stated.finite.sum()))


def _sub_pixel(stated: Stated) -> Finding | None:
    sides = stated.boxes[:, 2:] - stated.boxes[:, :2]
    small = stated.finite & (sides > 0).all(axis=1) & (sides < 1).any(axis=1)
    if not small.any():
        return None
    return _shared(stated, small, "sub-pixel boxes", "are less than a pixel wide or high")


def _cut(stated: Stated) -> Finding | None:
    cut = stated.parsed.box_verdicts()[1] == CLIPPED
    if cut.sum() < SUSPICIOUS * len(cut) or cut.sum() < 3:
        return None
    return _shared(stated, cut, "many clipped boxes", "stick out of their pictures and are clipped")


def _repeated(stated: Stated) -> Finding | None:
    again = _again(stated, same_class=True)
    if not again.any():
        return None
    return _shared(stated, again, "repeated boxes", f"repeat another of their class, one in {_place(stated, again)}")


def _two_classes(stated: Stated) -> Finding | None:
    again = _again(stated, same_class=False) & ~_again(stated, same_class=True)
    if not again.any():
        return None
    return _shared(
        stated, again, "boxes of two classes", f"repeat one of another class, one in {_place(stated, again)}"
    )


def _again(stated: Stated, *, same_class: bool) -> NDArray[np.bool_]:
    """Boxes that an earlier one of their picture equals, to a hundredth of a pixel, ``[N]``."""
    rows = np.flatnonzero(stated.finite)
    label = stated.parsed.labels[rows] * same_class
    keys = np.column_stack([stated.parsed.image_index[rows], label, np.rint(stated.boxes[rows] * 100)])
    _, first = np.unique(keys, axis=0, return_index=True)
    again = stated.finite.copy()
    again[rows[first]] = False
    return again


def _place(stated: Stated, rows: NDArray[np.bool_]) -> str:
    """The picture of the first of some boxes."""
    return stated.parsed.images[stated.parsed.image_index[int(rows.argmax())]].file_name


def _one_place(stated: Stated) -> Finding | None:
    """The same box in picture after picture: a template that nobody adjusted."""
    boxes, counts = np.unique(np.rint(stated.boxes[stated.finite]), axis=0, return_counts=True)
    most = int(counts.argmax())
    pictures = len(stated.parsed.images)
    if counts[most] < max(5, 0.5 * stated.finite.sum()) or pictures < 5 or len(boxes) == 0:
        return None
    covered = np.prod(boxes[most, 2:] - boxes[most, :2]) / np.prod(stated.sizes[0])
    if covered >= 0.95:  # told as boxes of whole pictures
        return None
    x1, y1, x2, y2 = boxes[most]
    sentence = f"{counts[most]} boxes of {pictures} pictures are the same, ({x1:.0f}, {y1:.0f}) to ({x2:.0f}, {y2:.0f})"
    return Finding("warning", "boxes of one place", f"{stated.split}: {sentence}", int(counts[most]))


def _areas(stated: Stated) -> Finding | None:
    """Stated areas that no object in such a box can have; they decide which objects count as small."""
    boxes = np.prod(stated.boxes[:, 2:] - stated.boxes[:, :2], axis=1)
    known = stated.finite & np.isfinite(stated.parsed.area) & (boxes > 0)
    ratio = stated.parsed.area[known] / boxes[known]
    odd = (ratio > 1.1) | (ratio < 0.01)
    if odd.sum() < 3 or odd.sum() < SUSPICIOUS * known.sum():
        return None
    sentence = (
        f"{odd.sum()} of {known.sum()} areas do not fit their boxes (in the median they are {np.median(ratio):.3g} of "
        "the box's); they decide which objects count as small, medium and large"
    )
    return Finding("warning", "areas that do not fit", f"{stated.split}: {sentence}", int(odd.sum()))


def _whole_pictures(stated: Stated) -> Finding | None:
    clipped, verdict = stated.parsed.box_verdicts()
    kept = (verdict == "") | (verdict == CLIPPED)
    covering = kept & (np.prod((clipped[:, 2:] - clipped[:, :2]) / stated.sizes, axis=1) >= 0.95)
    if covering.sum() < 3 or covering.sum() < 0.5 * kept.sum():
        return None
    sentence = (
        f"{_of(covering, stated)} cover nearly all of their picture; are these labels of pictures, not of objects?"
    )
    return Finding("warning", "boxes of whole pictures", f"{stated.split}: {sentence}", int(covering.sum()))


def _one_size(stated: Stated) -> Finding | None:
    boxes = stated.boxes[stated.finite]
    if len(boxes) < MANY_BOXES:
        return None
    sides, counts = np.unique(np.rint(boxes[:, 2:] - boxes[:, :2]), axis=0, return_counts=True)
    most = int(counts.argmax())
    if counts[most] < 0.95 * len(boxes) or sides[most].max() < 2:
        return None
    width, height = sides[most]
    sentence = f"{counts[most]} of {len(boxes)} boxes are {width:.0f}x{height:.0f} pixels; these may be marked points"
    return Finding("warning", "boxes of one size", f"{stated.split}: {sentence}", int(counts[most]))


def _shared(stated: Stated, rows: NDArray[np.bool_], kind: str, what: str) -> Finding:
    severe = rows.sum() > FEW * len(rows)
    return Finding(
        "warning" if severe else "note", kind, f"{stated.split}: {_of(rows, stated)} {what}", int(rows.sum())
    )


def _of(rows: NDArray[np.bool_], stated: Stated) -> str:
    """Such as "12 of 80 boxes (15 %)"."""
    share = 100 * rows.sum() / len(rows)
    return f"{rows.sum()} of {len(rows)} boxes ({'under 1' if share < 1 else f'{share:.0f}'} %)"
