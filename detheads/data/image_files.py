"""Image files on disk: which files count as images, and what their headers say."""

import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from detheads.errors import UserError

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

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
