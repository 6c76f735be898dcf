"""Image files: which files count as images, what their headers say, and their pixels as RGB. Torch-free."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from detheads.foundation.errors import UserError

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

MAX_PIXELS = 200_000_000
"""Larger images are refused before they are decoded (decompression bombs)."""

_EXIF_ORIENTATION = 0x0112
_QUARTER_TURNS = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap width and height."""


@dataclass(frozen=True)
class ImageHeader:
    """What a header tells without decoding. The size is as displayed (EXIF orientation applied), in pixels."""

    width: int
    height: int
    mode: str
    rotated: bool


def read_header(path: Path) -> ImageHeader:
    """Read an image's header; the pixels are not decoded.

    Raises:
        UserError: when the file is missing or not an image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
                width, height = image.size
                if orientation in _QUARTER_TURNS:
                    width, height = height, width
                return ImageHeader(width, height, image.mode, orientation not in (0, 1))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not an image that Pillow can read; replace or remove it.") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be opened ({error}); replace or remove it.") from None


def list_images(folder: Path) -> list[str]:
    """Names of the image files at any depth below ``folder``, relative to it, with ``/``, sorted."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def load_image(source: Path | bytes) -> Image.Image:
    """Decode an image file (or its bytes) to RGB with EXIF orientation applied.

    Greyscale, palette, CMYK and 16-bit files are converted; transparency is laid on white.

    Raises:
        UserError: when the file is missing, truncated, not an image, or larger than ``MAX_PIXELS``.
    """
    name = str(source) if isinstance(source, Path) else "the image"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UserError(
                        f"{name} has {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}; shrink it first."
                    )
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise UserError(f"{name} does not exist.") from None
    except UnidentifiedImageError:
        raise UserError(f"{name} is not an image that Pillow can read; replace or remove it.") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{name} cannot be decoded ({error}); replace or remove it.") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16- or 32-bit greyscale: Pillow's own conversion clips at 255
        values = np.asarray(image).astype(np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        return Image.fromarray(np.clip(values * (255.0 / top), 0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        background = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(background, rgba).convert("RGB")
    return image.convert("RGB")
