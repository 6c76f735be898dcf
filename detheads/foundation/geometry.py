"""The one letterbox: images into the model's frame, boxes there and back. Torch-free.

Caching, evaluation and deployment all use it, so a box means the same thing in each of them.

Frames:
    *original*: pixels of the image as a viewer shows it (EXIF orientation applied).
    *input*: pixels of the letterboxed model input. Pixel ``(0, 0)`` covers ``[0, 1) x [0, 1)`` in both.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PAD_VALUE = 114
"""Grey level of the padding, 0..255, the same in each channel."""


@dataclass(frozen=True)
class Letterbox:
    """How one image of ``image_width x image_height`` sits in an input of ``input_width x input_height``.

    The image is resized with its aspect ratio kept (to whole pixels, at least one) and centred; the rest is padding.
    """

    image_width: int
    image_height: int
    input_width: int
    input_height: int
    resized_width: int
    resized_height: int
    pad_left: int
    pad_top: int

    @classmethod
    def fit(cls, image_width: int, image_height: int, input_width: int, input_height: int) -> "Letterbox":
        """The letterbox for an image size and an input size, all in pixels."""
        if min(image_width, image_height, input_width, input_height) < 1:
            raise ValueError(f"sizes must be positive: {image_width}x{image_height}, {input_width}x{input_height}")
        scale = min(input_width / image_width, input_height / image_height)
        resized_width = min(input_width, max(1, round(image_width * scale)))
        resized_height = min(input_height, max(1, round(image_height * scale)))
        return cls(
            image_width,
            image_height,
            input_width,
            input_height,
            resized_width,
            resized_height,
            (input_width - resized_width) // 2,
            (input_height - resized_height) // 2,
        )

    @property
    def scale(self) -> tuple[float, float]:
        """Input pixels per original pixel, ``(x, y)``; they differ a little because sizes are whole pixels."""
        return self.resized_width / self.image_width, self.resized_height / self.image_height

    def apply(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize (bilinear, antialiased) and pad an RGB image.

        Returns:
            uint8 ``[input_height, input_width, 3]``, RGB.
        """
        if image.size != (self.image_width, self.image_height):
            raise ValueError(f"letterbox made for {self.image_width}x{self.image_height}, image is {image.size}")
        resized = image.resize((self.resized_width, self.resized_height), Image.Resampling.BILINEAR)
        canvas = np.full((self.input_height, self.input_width, 3), PAD_VALUE, dtype=np.uint8)
        bottom, right = self.pad_top + self.resized_height, self.pad_left + self.resized_width
        canvas[self.pad_top : bottom, self.pad_left : right] = np.asarray(resized)
        return canvas

    def to_input(self, boxes: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map xyxy boxes ``[N, 4]`` from original pixels to input pixels."""
        scale, offset = self._affine()
        return np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * scale + offset

    def to_original(self, boxes: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map xyxy boxes ``[N, 4]`` from input pixels to original pixels, clipped to the image."""
        scale, offset = self._affine()
        mapped = (np.asarray(boxes, dtype=np.float64).reshape(-1, 4) - offset) / scale
        limit = [self.image_width, self.image_height, self.image_width, self.image_height]
        return np.clip(mapped, 0.0, limit)

    def _affine(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        scale_x, scale_y = self.scale
        return (
            np.array([scale_x, scale_y, scale_x, scale_y]),
            np.array([self.pad_left, self.pad_top, self.pad_left, self.pad_top], dtype=np.float64),
        )


def letterbox_image(image: Image.Image, input_width: int, input_height: int) -> tuple[NDArray[np.uint8], Letterbox]:
    """Letterbox an RGB image: uint8 ``[input_height, input_width, 3]`` and the letterbox that maps boxes back."""
    letterbox = Letterbox.fit(image.width, image.height, input_width, input_height)
    return letterbox.apply(image), letterbox


def sides(height: int, width: int) -> str:
    """The size of a model input for a reader, in the order of ``--size``: ``320x512 (height x width)``, ``512x512``."""
    return f"{height}x{width}" + ("" if height == width else " (height x width)")


def nearest_sides(height: int, width: int, multiple: int) -> str:
    """As ``--size`` takes it, the size nearest to this one whose sides are multiples of ``multiple``."""
    near = [max(multiple, round(side / multiple) * multiple) for side in (height, width)]
    return str(near[0]) if near[0] == near[1] else f"{near[0]}x{near[1]}"


def has_area(boxes: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which xyxy boxes ``[N, 4]`` have an area: a box in the padding has none left when it is clipped to the image."""
    boxes = np.asarray(boxes).reshape(-1, 4)
    return np.asarray((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))


def flip_boxes(boxes: NDArray[np.floating], width: float) -> NDArray[np.float64]:
    """Mirror xyxy boxes ``[N, 4]`` left-right inside a frame of ``width`` pixels."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
