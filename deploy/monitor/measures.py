"""One number of a picture, or of what was found in it, for each thing that drifts.

Each picture counts once, whatever is found in it, so that values are as independent as the pictures are. Pictures are
measured as the graph gets them: letterboxed, without the padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detheads.foundation.geometry import Letterbox

ROWS: Final = 128
"""Of a picture that are read; more of them say the same."""
FAR: Final = 4
"""Pixels between those of a coarse difference; see :func:`of_picture`."""
FLAT: Final = 0.25
"""Grey levels between pixels :data:`FAR` apart, on average; of less, rounding to whole levels is the most part."""
CELLS: Final = 8
"""Rows and columns of a :func:`view`."""


@dataclass(frozen=True)
class Measure:
    """What is measured, and the range of its histogram; values beyond it count in the outermost bins."""

    name: str
    low: float
    high: float


BRIGHTNESS: Final = Measure("brightness", 0, 256)
CONTRAST: Final = Measure("contrast", 0, 128)
WARMTH: Final = Measure("warmth", -128, 128)
COLOUR: Final = Measure("colour", 0, 128)
DETAIL: Final = Measure("detail", 0, 1.28)
SCORE: Final = Measure("score", 0, 1)
COUNT: Final = Measure("count", 0, 8)
SIZE: Final = Measure("size", -8, 0)
MEASURES: Final = {
    measure.name: measure for measure in (BRIGHTNESS, CONTRAST, WARMTH, COLOUR, DETAIL, SCORE, COUNT, SIZE)
}

Values = dict[str, float]
"""Of one picture, by the measure's name; absent where there is nothing to measure."""


def of_picture(array: NDArray[np.uint8], letterbox: Letterbox) -> Values:
    """What the pixels of a letterboxed picture say; uint8 ``[H, W, 3]``, RGB.

    - ``brightness``: mean of grey, 0..255; ``contrast``: its standard deviation.
    - ``warmth``: mean of red minus mean of blue.
    - ``colour``: mean distance of a pixel's largest from its smallest channel; 0 in a grey picture.
    - ``detail``: mean difference of neighbours in a row, as a share of that of pixels :data:`FAR` apart, so that
      brightness and contrast cancel out: ``1 / FAR`` for smooth ramps, 1 for noise. Absent in a flat picture.
    """
    content = _content(array, letterbox)
    # Three arrays [h, w]: numpy is several times faster with them than along an axis of three.
    red, green, blue = np.ascontiguousarray(content[:: max(1, len(content) // ROWS)].transpose(2, 0, 1), np.float32)
    grey = (red + green + blue) / 3
    found = {
        BRIGHTNESS.name: float(grey.mean()),
        CONTRAST.name: float(grey.std()),
        WARMTH.name: float(red.mean() - blue.mean()),
        COLOUR.name: float(
            (np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)).mean()
        ),
    }
    if grey.shape[1] > FAR and (far := float(np.abs(grey[:, FAR:] - grey[:, :-FAR]).mean())) > FLAT:
        found[DETAIL.name] = float(np.abs(np.diff(grey, axis=1)).mean()) / far
    return found


def of_found(
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating],
    labels: NDArray[np.integer],
    picture: tuple[int, int],
    counted_from: Sequence[float],
    floor: float,
) -> Values:
    """What the detections of one picture say.

    - ``score``: the best one; 0 where there is none above ``floor``.
    - ``count``: log2(1 + detections that count).
    - ``size``: log2 of the median of sqrt(box area / picture area); absent where nothing counts.

    Args:
        boxes: ``[n, 4]`` xyxy, in pixels of the original picture.
        picture: its width and height.
        counted_from: the score from which a detection of each class counts, ``[K]``.
        floor: scores that are not above it do not leave the graph as it was exported.
    """
    best = float(scores.max(initial=0.0))
    counted = scores >= np.asarray(counted_from)[labels]
    found = {SCORE.name: best if best > floor else 0.0, COUNT.name: float(np.log2(1 + counted.sum()))}
    if counted.any():
        width, height = (boxes[counted, 2:] - boxes[counted, :2]).T
        share = np.median(width * height) / (picture[0] * picture[1])
        found[SIZE.name] = float(np.log2(max(share, 2.0**-32)) / 2)
    return found


def view(array: NDArray[np.uint8], letterbox: Letterbox) -> NDArray[np.float32]:
    """What a camera looks at, coarsely: grey means of :data:`CELLS` x :data:`CELLS` cells, as a vector of length 1.

    The product of two says how alike they are, in -1..1, whatever their brightness and contrast. A picture without any
    structure gives zeros.
    """
    content = _content(array, letterbox)
    down, across = (np.linspace(0, side - 1, 4 * CELLS).astype(int) for side in content.shape[:2])
    sampled = content[np.ix_(down, across)].mean(axis=2, dtype=np.float32)
    cells = sampled.reshape(CELLS, 4, CELLS, 4).mean(axis=(1, 3)).ravel()
    cells -= cells.mean()
    length = float(np.linalg.norm(cells))
    return cells / length if length > 1 else np.zeros_like(cells)


def _content(array: NDArray[np.uint8], letterbox: Letterbox) -> NDArray[np.uint8]:
    top, left = letterbox.pad_top, letterbox.pad_left
    return array[top : top + letterbox.resized_height, left : left + letterbox.resized_width]
