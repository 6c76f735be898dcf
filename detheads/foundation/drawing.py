"""Boxes and names drawn onto pictures. Torch-free: the deployment runtime uses it too."""

import colorsys
import zlib
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from detheads.foundation.lettering import Lettering, Line

Color = tuple[int, int, int]

MARGIN = 2
"""Pixels between a name and the edge of its ground."""


def draw_boxes(
    image: Image.Image,
    boxes: NDArray[np.floating],
    labels: Sequence[str],
    colors: Sequence[int] | NDArray[np.integer] | None = None,
    scores: Sequence[float] | NDArray[np.floating] | None = None,
    lettering: Lettering | None = None,
) -> Image.Image:
    """A copy of a picture with boxes and their names, legible at any picture size.

    Args:
        image: any mode; the result is RGB.
        boxes: xyxy in the picture's pixels, ``[N, 4]``.
        labels: the name of each box, ``[N]``.
        colors: index into an endless palette for each box, usually its class index, ``[N]``; without it, equal names
            get equal colours.
        scores: shown behind the name in percent, ``[N]``; boxes are drawn from the lowest score to the highest.
        lettering: how names are written; with the package's own fonts when left out.
    """
    lettering = lettering or own_lettering()
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if colors is None:
        colors = [zlib.crc32(label.encode("utf-8", "surrogatepass")) for label in labels]
    drawn = image.convert("RGB") if image.mode != "RGB" else image.copy()
    draw = ImageDraw.Draw(drawn)
    long_side = max(drawn.size)
    thickness = max(1, round(long_side / 300))
    em = max(10, round(long_side / 38))
    order = range(len(boxes)) if scores is None else np.argsort(np.asarray(scores), kind="stable").tolist()
    for index in order:
        color = palette_color(int(colors[index]))
        ending = "" if scores is None else f" {100 * float(scores[index]):.0f}%"
        left, top, right, bottom = _whole_pixels(boxes[index], drawn.size)
        draw.rectangle((left, top, right, bottom), outline=color, width=thickness)
        line = lettering.fitted(labels[index], ending, em, drawn.width - 2 * MARGIN)
        if line is not None:
            _draw_line(draw, line, left, top, color, drawn.size)
    return drawn


@cache
def own_lettering() -> Lettering:
    """Lettering with the package's own fonts alone."""
    return Lettering()


def palette_color(index: int) -> Color:
    """The ``index``-th colour of an endless palette of vivid colours; neighbours differ strongly."""
    hue = index * 0.6180339887498949 % 1.0
    value = (1.0, 0.82, 0.92)[index // 8 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _whole_pixels(box: NDArray[np.float64], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last pixel of a box inside the picture; at least one pixel."""
    width, height = size
    left, top = min(max(0, round(box[0])), width - 1), min(max(0, round(box[1])), height - 1)
    return left, top, max(left, min(width, round(box[2])) - 1), max(top, min(height, round(box[3])) - 1)


def _draw_line(draw: ImageDraw.ImageDraw, line: Line, left: int, top: int, color: Color, size: tuple[int, int]) -> None:
    """A line on a filled ground above the box's corner, or inside the picture where there is no room above."""
    ground_width, ground_height = line.size[0] + 2 * MARGIN, line.size[1] + 2 * MARGIN
    if ground_width > size[0] or ground_height > size[1]:
        return
    x = max(0, min(left, size[0] - ground_width))
    y = top - ground_height if top >= ground_height else min(top, max(0, size[1] - ground_height))
    draw.rectangle((x, y, x + ground_width - 1, y + ground_height - 1), fill=color)
    bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    fill = "black" if bright > 130 else "white"
    for piece in line.pieces:
        piece.draw(draw, (x + MARGIN - line.box[0], y + MARGIN - line.box[1]), fill)
