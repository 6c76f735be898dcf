"""How hosts bring a picture to the size of the input: their resize, their padding, and the way back.

Each is written twice: here in NumPy for the graph, and in :mod:`detheads.export.profiles.live_frames` in torch for the
PyTorch side of the proof, so that a slip in one of them shows as a difference. Our own letterbox is the one of
:mod:`detheads.foundation.geometry` on both sides.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class WayBack(Protocol):
    """Boxes of the input in the picture's own pixels."""

    def to_original(self, boxes: NDArray[np.floating]) -> NDArray[np.float64]:
        """xyxy ``[N, 4]``, input pixels -> original pixels, clipped to the picture."""
        ...


Framed = tuple[NDArray[np.uint8], WayBack]
"""A picture as its host gives it to the graph, RGB ``[height, width, 3]``, and the way back."""

Frame = Callable[[Image.Image, int, int], Framed]
"""An RGB picture, width and height of the input -> what the graph is given."""


@dataclass(frozen=True)
class Placement:
    """A picture of ``image_width x image_height``, scaled, with its corner at ``(left, top)`` of the input."""

    image_width: int
    image_height: int
    scale_x: float
    scale_y: float
    left: int = 0
    top: int = 0

    def to_original(self, boxes: NDArray[np.floating]) -> NDArray[np.float64]:
        """See :class:`WayBack`."""
        offset = np.array([self.left, self.top] * 2)
        scale = np.array([self.scale_x, self.scale_y] * 2)
        limit = [self.image_width, self.image_height] * 2
        return np.clip((np.asarray(boxes, dtype=np.float64).reshape(-1, 4) - offset) / scale, 0.0, limit)


HALF = 0.5 + 1e-6
"""What is added before cutting to whole numbers: halves go up, also those that arithmetic left a little short."""

REGION_MULTIPLE = 4
"""Frigate makes the sides of its regions multiples of this (``yuv_crop_and_resize`` in ``frigate/util/image.py``)."""


def square_region(image: Image.Image, width: int, height: int) -> Framed:
    """The whole picture as one region of Frigate: a square from its corner, black where there is no picture, resized.

    Frigate never stretches or letterboxes: it cuts squares out of a frame. One that is larger than the frame, as around
    an object that fills it, is black outside.
    """
    side = -(-max(image.size) // REGION_MULTIPLE) * REGION_MULTIPLE
    region = np.zeros((side, side, 3), np.uint8)
    region[: image.height, : image.width] = np.asarray(image)
    return bilinear(region, width, height), Placement(*image.size, width / side, height / side)


def black_letterbox(image: Image.Image, width: int, height: int) -> Framed:
    """As DeepStream's nvinfer with ``maintain-aspect-ratio=1``, ``symmetric-padding=1`` and ``scaling-filter=1``.

    Sides are cut to whole pixels, not rounded (``get_converted_buffer`` in ``gstnvinfer.cpp``); the rest is black.
    """
    inner_width, inner_height = width, int(width * image.height / image.width)
    if inner_height > height:
        inner_width, inner_height = int(height * image.width / image.height), height
    inner_width, inner_height = max(1, inner_width), max(1, inner_height)
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[top : top + inner_height, left : left + inner_width] = bilinear(np.asarray(image), inner_width, inner_height)
    scale = inner_width / image.width, inner_height / image.height
    return canvas, Placement(*image.size, *scale, left, top)


def bilinear(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resize ``[h, w, 3]`` between the four nearest pixels, whatever the scale: no antialiasing, as OpenCV and GPUs do.

    Centres of pixels are at halves; beyond the edge its last pixel goes on.
    """
    rows, lower, row_part = _between(picture.shape[0], height)
    columns, right, column_part = _between(picture.shape[1], width)
    values = picture.astype(np.float64)
    part = column_part[None, :, None]
    upper_row, lower_row = (
        values[which][:, columns] * (1 - part) + values[which][:, right] * part for which in (rows, lower)
    )
    mixed = upper_row * (1 - row_part[:, None, None]) + lower_row * row_part[:, None, None]
    return np.floor(mixed + HALF).astype(np.uint8)


def _between(length: int, wanted: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """For each of ``wanted`` places the pixel before, the pixel behind, and how far it is on the way to that."""
    places = np.clip((np.arange(wanted) + 0.5) * length / wanted - 0.5, 0, length - 1)
    before = np.floor(places).astype(np.intp)
    return before, np.minimum(before + 1, length - 1), places - before
