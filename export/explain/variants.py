"""What else a host may do to a picture before the network sees it, each way with its name."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detheads.export.explain.explanation import Kind
from detheads.export.profiles.frames import Frame
from detheads.foundation.geometry import PAD_VALUE, Letterbox, letterbox_image

Pixels = NDArray[np.uint8]
"""``[H, W, 3]``."""


@dataclass(frozen=True)
class Variant:
    """A way to make the network's input that is not ours.

    Attributes:
        said: what the artefact does, for a reader.
        apply: RGB picture, input width and height -> input.
    """

    kind: Kind
    said: str
    apply: Callable[[Image.Image, int, int], Pixels]


def variants(frame: Frame = letterbox_image) -> Iterator[Variant]:
    """All that are known.

    Args:
        frame: what is meant: our letterbox, or what a host does instead.
    """

    def swapped(image: Image.Image, width: int, height: int) -> Pixels:
        return np.ascontiguousarray(frame(image, width, height)[0][..., ::-1])

    yield Variant("channel order", "swaps the colour channels (BGR where RGB is meant)", swapped)
    if frame is not letterbox_image:
        said = "letterboxes as detheads itself does where its host's way is meant"
        yield Variant("letterbox", said, lambda image, width, height: letterbox_image(image, width, height)[0])
        return
    for name, resample in (
        ("nearest neighbour", Image.Resampling.NEAREST),
        ("bicubic", Image.Resampling.BICUBIC),
        ("area (box)", Image.Resampling.BOX),
        ("Lanczos", Image.Resampling.LANCZOS),
    ):
        yield _laid_as("resize", f"resizes by {name} where bilinear with antialiasing is meant", resample=resample)
    yield Variant("resize", "resizes bilinearly without antialiasing, as OpenCV does", _without_antialiasing)
    for name, colour in (("black", 0), ("white", 255), ("grey 127", 127), ("grey 128", 128)):
        yield _laid_as("padding", f"pads with {name} where grey {PAD_VALUE} is meant", colour=colour)
    for x, y in [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y]:
        yield _laid_as("letterbox", f"lays the picture {_told(x, y)} off its place in the letterbox", shift=(x, y))
    yield _laid_as("letterbox", "lays the picture into the top left corner where it is to be centred", corner=True)
    yield _laid_as("letterbox", "rounds the resized sides down where the nearest is meant", rounded=math.floor)
    yield _laid_as("letterbox", "rounds the resized sides up where the nearest is meant", rounded=math.ceil)
    yield Variant("letterbox", "stretches the picture to the input where its aspect ratio is to be kept", _stretched)


def _told(x: int, y: int) -> str:
    words = [f"1 pixel {word}" for word in (("left", "", "right")[x + 1], ("up", "", "down")[y + 1]) if word]
    return " and ".join(words)


def _laid_as(kind: Kind, said: str, **how: object) -> Variant:
    def apply(image: Image.Image, width: int, height: int) -> Pixels:
        return _laid(image, width, height, **how)  # type: ignore[arg-type]

    return Variant(kind, said, apply)


def _laid(
    image: Image.Image,
    width: int,
    height: int,
    *,
    resample: Image.Resampling = Image.Resampling.BILINEAR,
    colour: int = PAD_VALUE,
    shift: tuple[int, int] = (0, 0),
    corner: bool = False,
    rounded: Callable[[float], int] = round,
) -> Pixels:
    scale = min(width / image.width, height / image.height)
    sides = min(width, max(1, rounded(image.width * scale))), min(height, max(1, rounded(image.height * scale)))
    left, top = (0, 0) if corner else ((width - sides[0]) // 2, (height - sides[1]) // 2)
    canvas = Image.new("RGB", (width, height), (colour,) * 3)
    canvas.paste(image.resize(sides, resample), (left + shift[0], top + shift[1]))
    return np.asarray(canvas)


def _without_antialiasing(image: Image.Image, width: int, height: int) -> Pixels:
    fit = Letterbox.fit(*image.size, width, height)
    sides = fit.resized_width, fit.resized_height
    steps = image.width / sides[0], 0, 0, 0, image.height / sides[1], 0
    canvas = Image.new("RGB", (width, height), (PAD_VALUE,) * 3)
    resized = image.transform(sides, Image.Transform.AFFINE, steps, Image.Resampling.BILINEAR)
    canvas.paste(resized, (fit.pad_left, fit.pad_top))
    return np.asarray(canvas)


def _stretched(image: Image.Image, width: int, height: int) -> Pixels:
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
