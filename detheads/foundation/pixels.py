"""Pixels of every type as 8-bit RGB, by one rule for each type."""

from collections.abc import Callable

import numpy as np
from PIL import Image
from PIL.Image import Transpose

EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""How an image of each EXIF orientation is turned to be shown upright."""

FEW_GREYS = 16
"""A 16-bit image whose values span fewer of the 256 greys than this probably holds 12, 10 or 8 bits."""

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
"""TIFF tags."""


class PixelTypeError(ValueError):
    """Pixels of a type whose range is not known."""


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, an unreadable one, or one that does not exist."""
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # whatever a damaged block makes Pillow raise: the pixels are not affected
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def to_rgb(image: Image.Image, on_remark: Callable[[str], None] | None = None) -> Image.Image:
    """A decoded image of any mode as RGB, turned as its EXIF orientation says; the image itself where it is that.

    Values are scaled by the type and never by the pixels, so that equal greys stay equal from file to file: 16-bit
    values are divided by 257 (12-bit TIFF files, by 4095/255), 1-bit ones are black and white. Palettes, CMYK, YCbCr,
    HSV and LAB are converted, and transparency is laid on white.

    Args:
        image: the image, its pixels loaded.
        on_remark: called with the rest of a sentence about the image when its pixels look wrong.

    Raises:
        PixelTypeError: when the pixels are decimal numbers or whole ones of 32 bits, whose range is not known.
    """
    orientation = orientation_of(image)
    rgb = _in_rgb(image, on_remark)
    if orientation != 1:
        rgb = rgb.transpose(_TURNS[orientation])
        rgb.info = {}  # which says that the image has to be turned, and would say so to the next one who asks
    return rgb


def _in_rgb(image: Image.Image, on_remark: Callable[[str], None] | None) -> Image.Image:
    if image.mode == "F":
        raise PixelTypeError(
            "its pixels are decimal numbers, whose range is not known; save it with 8 bits first, multiplied by 255 "
            "where they are 0 to 1"
        )
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # "I" in older Pillow
        return _grey(image, on_remark).convert("RGB")
    if image.mode.startswith("I"):
        raise PixelTypeError(
            "its pixels are whole numbers of 32 bits, or of 16 with a sign, whose range is not known; save it with 8 "
            "or 16 bits first"
        )
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in {"RGBA", "LA", "PA", "RGBa"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey(image: Image.Image, on_remark: Callable[[str], None] | None) -> Image.Image:
    """16-bit greys, of which some TIFF files use 12 bits by declaration, as 8-bit ones."""
    tags = getattr(image, "tag_v2", {})
    top = 4095 if tags.get(_BITS_PER_SAMPLE) == (12,) else 65535
    values = np.asarray(image)
    span = int(values.max(initial=0)) - int(values.min(initial=top))
    greys = np.clip(np.round(values * (255.0 / top)), 0, 255).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow heeds in 8 bits only
        greys = 255 - greys
    if on_remark is not None and 0 < span * 255 / top < FEW_GREYS:
        on_remark(
            f"has 16-bit pixels from {values.min()} to {values.max()}, almost one grey in 8 bits; if it holds fewer "
            "bits, stretch its values to 65535 first"
        )
    return Image.fromarray(greys)
