"""Single values of COCO annotation files, of which some tools write numbers as text, flags as words, or none at all."""

import math
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any

import numpy as np

_YES = frozenset({"1", "true", "yes"})
_NUMBERS = frozenset({int, float})
_NO = frozenset({"", "0", "false", "no"})


def whole(value: Any) -> int | None:
    """A whole number of 64 bits, also where it is text (``"7"``); None for anything else."""
    if type(value) is int and -(2**63) <= value < 2**63:  # as nearly always; files have millions of them
        return value
    number = real(value)
    if number is None or not -(2.0**63) <= number < 2.0**63 or number != int(number):
        return None
    return int(number)


def real(value: Any) -> float | int | None:
    """A number, also where it is text; None for anything else."""
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value) if value.isascii() and "_" not in value and len(value) < 40 else None
            except ValueError:
                continue
        return None
    return None if isinstance(value, bool) or not isinstance(value, int | float) else value


def flag(value: Any) -> bool | None:
    """A flag as number, truth value or word; absent is False; None for anything else."""
    if type(value) is int:
        return value != 0
    if isinstance(value, str):
        word = value.strip().lower()
        return True if word in _YES else False if word in _NO else None
    if isinstance(value, bool | NoneType):
        return bool(value)
    number = real(value)
    return None if number is None or math.isnan(number) else number != 0


def corners(bbox: Any) -> list[float] | None:
    """``[x, y, width, height]`` as xyxy; None when it is not four numbers.

    ``null`` counts as not finite, because writers without NaN put it there.
    """
    if not isinstance(bbox, list) or len(bbox) != 4:
        return None
    numbers: list[float] = []
    for value in bbox:
        number = value if type(value) in _NUMBERS else math.nan if value is None else real(value)
        if number is None:
            return None
        numbers.append(number)
    x, y, width, height = numbers
    return [x, y, x + width, y + height]


def box_of(segmentation: Any) -> list[float] | None:
    """The box around a COCO segmentation, xyxy: polygons, or a run-length mask (a compressed one needs pycocotools).

    None when there is no such box.
    """
    if isinstance(segmentation, Mapping):
        return _box_of_mask(segmentation)
    numbers = list(_flat(segmentation))
    if len(numbers) < 6 or len(numbers) % 2 or not all(map(math.isfinite, numbers)):
        return None
    return [min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])]


def _flat(value: Any) -> Iterator[float]:
    """All numbers of nested lists in order; NaN for what is none."""
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    else:
        number = real(value)
        yield math.nan if number is None else float(number)


def _box_of_mask(mask: Mapping[str, Any]) -> list[float] | None:
    size, counts = mask.get("size"), mask.get("counts")
    sides = [whole(side) for side in size] if isinstance(size, list) else []
    height, width = sides if len(sides) == 2 else (None, None)
    if height is None or width is None or not (0 < height < 1 << 20 and 0 < width < 1 << 20):
        return None
    if isinstance(counts, str):
        try:
            from pycocotools import mask as masks
        except ImportError:
            return None
        x, y, across, down = masks.toBbox({"size": [height, width], "counts": counts.encode("ascii", "replace")})
        box = [float(x), float(y), float(x + across), float(y + down)]
    else:
        box = _box_of_runs(counts, height)
    return box if box and box[0] < box[2] <= width and box[1] < box[3] <= height else None


def _box_of_runs(counts: Any, height: int) -> list[float]:
    """The box of runs of 0 and 1 in turn, down the columns one after the other."""
    lengths = [whole(count) for count in counts] if isinstance(counts, list) else []
    if any(length is None or not 0 <= length < 1 << 40 for length in lengths):
        return []
    ends = np.cumsum(np.array(lengths, dtype=np.float64))
    first, last = ends[0:-1:2], ends[1::2] - 1  # of each run of 1, counted down the columns
    first, last = first[last >= first], last[last >= first]
    if not len(first):
        return []
    left, right = first // height, last // height
    whole_column = right > left  # it goes over the lower end of a column
    top = np.where(whole_column, 0, first % height)
    bottom = np.where(whole_column, height - 1, last % height)
    return [float(left.min()), float(top.min()), float(right.max() + 1), float(bottom.max() + 1)]
