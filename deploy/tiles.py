"""Large pictures in overlapping tiles, so that small objects are not shrunk away, and one list of detections for all.

What the tiles find, and with them the picture as a whole, goes through the bundle's own suppression once more (class
by class, at its IoU). A box that ends at a border inside the picture may be a part of an object, and is told apart:

- It ranks with half of its score, and goes where more of its own area than that IoU lies in a better box of its class:
  usually that of the next tile, which sees the object whole.
- Two such parts left over that go through the strip which their tiles share, from opposite sides and side by side
  (their extents along the border overlap by more than that IoU), are one object: their hull, with the better score.
  Both rules are applied in turn until nothing changes.

Tiles as such are the idea of SAHI (Akyon et al. 2022, "Slicing Aided Hyper Inference"), which merges all boxes of a
class by one measure and does not tell which ones a border has cut.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detheads.deploy.detector import BATCH, Detections, Detector
from detheads.deploy.pictures import Channels, Picture, as_rgb
from detheads.deploy.suppression import survivors
from detheads.foundation.ahead import map_ahead
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import Thresholds

SMALLEST_TILE = 32
"""Pixels of a tile's side."""
OVERLAP = 0.2
"""Of neighbouring tiles, as a share of their side, where none is asked for; SAHI's default as well."""
LARGEST_OVERLAP = 0.9
MOST_TILES = 10_000
"""Of a picture; hours on a small device."""
EDGE = 2
"""Pixels of the model input within which a box ends at a tile's border: its sides are rarely nearer than that."""

RANK_OF_PARTS = 0.5
"""By what the score of a box that a border has cut counts in the ranking. AP of ``bench tiles`` on coco-person (grid 4,
tiles of 512 pixels), without and with the whole picture: 0.1789 and 0.1854; where parts come after all other boxes
0.1747 and 0.1847; where they are boxes like others 0.1733 and 0.1741. With parts joined it is 0.1817 and 0.1854."""

Window = tuple[int, int, int, int]
"""Left, top, right, bottom of a tile, pixels of the picture."""


@dataclass(frozen=True)
class Tiling:
    """How large pictures are cut.

    Attributes:
        tile: side of a tile, pixels of the picture. A picture that is no larger is run as it is.
        overlap: share of a tile's side that it has at least in common with the next one.
        whole: run the whole picture, too, for objects larger than a tile.

    Raises:
        UserError: when a value is out of range.
    """

    tile: int
    overlap: float = OVERLAP
    whole: bool = True

    def __post_init__(self) -> None:
        if self.tile < SMALLEST_TILE:
            raise UserError(f"a tile of {self.tile} pixels is too small; give {SMALLEST_TILE} at least.")
        if not 0 <= self.overlap <= LARGEST_OVERLAP:
            raise UserError(f"tiles overlap by 0 to {LARGEST_OVERLAP} of their side, not {self.overlap:g}.")

    def windows(self, width: int, height: int) -> list[Window]:
        """The tiles of a picture, row by row: all of one size, evenly spread, from edge to edge.

        Raises:
            UserError: when there would be more than :data:`MOST_TILES`.
        """
        columns, rows = self._starts(width), self._starts(height)
        if len(columns) * len(rows) > MOST_TILES:
            raise UserError(
                f"a picture of {width}x{height} pixels has {len(columns) * len(rows):,} tiles of {self.tile} pixels, "
                f"more than {MOST_TILES:,}; take larger tiles."
            )
        return [
            (left, top, min(width, left + self.tile), min(height, top + self.tile)) for top in rows for left in columns
        ]

    def _starts(self, length: int) -> list[int]:
        room = max(0, length - self.tile)
        steps = math.ceil(room / (self.tile * (1 - self.overlap)))
        return [round(room * step / steps) if steps else 0 for step in range(steps + 1)]


def detect_tiled(
    detector: Detector,
    picture: Picture,
    tile: int,
    overlap: float = OVERLAP,
    *,
    whole: bool = True,
    channels: Channels = "RGB",
    batch: int = BATCH,
) -> Detections:
    """Detect in one picture by tiles.

    Args:
        detector: what runs each tile.
        picture: as the detector takes it.
        tile, overlap, whole: see :class:`Tiling`.
        channels: order of an array's colours.
        batch: tiles in one run of the graph.

    Returns:
        Its detections, pixels of the picture, best first; there may be more than the graph has rows. ``full``: in one
        of the tiles the rows were all used.

    Raises:
        UserError: when the picture or a value cannot be used.
    """
    return run_tiled(detector, as_rgb(picture, channels), Tiling(tile, overlap, whole), batch)


def run_tiled(detector: Detector, image: Image.Image, tiling: Tiling, batch: int) -> Detections:
    """See :func:`detect_tiled`; ``image`` is RGB."""
    everything = (0, 0, *image.size)
    windows = tiling.windows(*image.size)
    if len(windows) == 1:
        return detector.run([detector.prepare(image)])[0]
    if tiling.whole:
        windows.append(everything)
    found = list(_found(detector, image, windows, batch))
    cuts = [_cut(each, window, image.size, detector) for each, window in zip(found, windows, strict=True)]
    boxes = [each.boxes + np.array(window[:2] * 2) for each, window in zip(found, windows, strict=True)]
    parts = _Boxes(
        np.concatenate(boxes),
        np.concatenate([each.scores for each in found]),
        np.concatenate([each.labels for each in found]),
        np.concatenate(cuts),
    )
    merged, before = [], 0
    for head in detector.heads:
        of_head = (parts.labels >= before) & (parts.labels < before + len(head.classes))
        nms_iou = head.thresholds.nms_iou
        merged.append(merge(parts.at(of_head), nms_iou if nms_iou < 1 else Thresholds().nms_iou))
        before += len(head.classes)
    result = _Boxes.of(merged)
    result = result.at(np.argsort(-result.scores, kind="stable"))
    names = tuple(detector.class_names[label] for label in result.labels.tolist())
    return Detections(result.boxes, result.scores, result.labels, names, any(each.full for each in found))


def _found(detector: Detector, image: Image.Image, windows: Sequence[Window], batch: int) -> Iterator[Detections]:
    """What each window holds, in its own pixels; the next ones are letterboxed meanwhile."""
    prepared = map_ahead(lambda window: detector.prepare(image.crop(window)), windows, ahead=batch)
    with closing(prepared):
        chunk = []
        for one in prepared:
            chunk.append(one)
            if len(chunk) == batch:
                yield from detector.run(chunk)
                chunk = []
        yield from detector.run(chunk)


def _cut(found: Detections, window: Window, size: tuple[int, int], detector: Detector) -> NDArray[np.bool_]:
    """Which sides ``[n, 4]`` (left, top, right, bottom) of boxes lie at a border of their tile inside the picture."""
    width, height = window[2] - window[0], window[3] - window[1]
    edge = EDGE * max(width / detector.manifest.input.width, height / detector.manifest.input.height)
    inner = np.array([window[0] > 0, window[1] > 0, window[2] < size[0], window[3] < size[1]])
    at_border = np.concatenate((found.boxes[:, :2] <= edge, found.boxes[:, 2:] >= np.array([width, height]) - edge), 1)
    return np.logical_and(at_border, inner)


@dataclass(frozen=True)
class _Boxes:
    """Boxes ``[n, 4]`` xyxy, their scores and labels ``[n]``, and which sides a border has cut ``[n, 4]``."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]
    cut: NDArray[np.bool_]

    @classmethod
    def of(cls, parts: "Sequence[_Boxes]") -> "_Boxes":
        columns = zip(*((part.boxes, part.scores, part.labels, part.cut) for part in parts), strict=True)
        return cls(*map(np.concatenate, columns))

    def at(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> "_Boxes":
        return _Boxes(self.boxes[which], self.scores[which], self.labels[which], self.cut[which])


def merge(found: _Boxes, nms_iou: float) -> _Boxes:
    """One list of what all tiles found; see the head of this file for the rule."""
    while True:
        cut: NDArray[np.bool_] = np.logical_or.reduce(found.cut, axis=1)
        order = np.argsort(-found.scores * np.where(cut, RANK_OF_PARTS, 1), kind="stable")
        ranked = found.at(order)
        kept = ranked.at(survivors(ranked.boxes, ranked.labels, nms_iou, cut[order]))
        found = _joined(kept, nms_iou)
        if len(found.boxes) == len(kept.boxes):
            return found


def _joined(found: _Boxes, nms_iou: float) -> _Boxes:
    """The boxes with parts of one object as one, each part with one other at most."""
    left = list(range(len(found.boxes)))
    hulls = []
    for one in np.nonzero(found.cut[:, 2:].any(axis=1))[0].tolist():
        other = _partner(found, one, left, nms_iou) if one in left else None
        if other is None:
            continue
        first, second = found.at(np.array([one])), found.at(np.array([other]))
        lower, upper = np.minimum(first.boxes, second.boxes), np.maximum(first.boxes, second.boxes)
        hull = np.concatenate((lower[:, :2], upper[:, 2:]), axis=1)
        cut = np.where(hull == first.boxes, first.cut, second.cut)  # a side is cut where the part that it is of was
        better = min(one, other)  # of two parts, the one that ranks before
        hulls.append(_Boxes(hull, found.scores[[better]], found.labels[[better]], cut))
        left = [each for each in left if each not in (one, other)]
    return _Boxes.of([*hulls, found.at(np.array(left, np.int64))])


def _partner(found: _Boxes, one: int, left: Sequence[int], nms_iou: float) -> int | None:
    """The part among those ``left`` that goes on where ``one`` is cut at its right or its bottom; the best one."""
    boxes, box = found.boxes[left], found.boxes[one]
    for along, across in ((0, 1), (1, 0)):
        if not found.cut[one, along + 2]:
            continue
        low, high = boxes[:, along], boxes[:, along + 2]
        through = (low > box[along]) & (low < box[along + 2]) & (high > box[along + 2])
        shared = np.minimum(boxes[:, across + 2], box[across + 2]) - np.maximum(boxes[:, across], box[across])
        extent = np.maximum(boxes[:, across + 2], box[across + 2]) - np.minimum(boxes[:, across], box[across])
        fits = (
            found.cut[left, along] & through & (found.labels[left] == found.labels[one]) & (shared > nms_iou * extent)
        )
        if fits.any():
            return left[int(fits.argmax())]
    return None
