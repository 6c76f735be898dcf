"""Image files: which files count as images, what their headers say, and their pixels as RGB. Torch-free."""

import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from detheads.foundation.errors import UserError
from detheads.foundation.pixels import PixelTypeError, orientation_of, to_rgb
from detheads.foundation.reading import likely, open_regular

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What is decoded, whatever a file is called. Pillow knows more, among them some that start other programs (EPS)."""

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"})

OTHER_SUFFIXES = frozenset(
    {".avif", ".arw", ".cr2", ".dcm", ".dng", ".eps", ".exr", ".hdr", ".heic", ".heif", ".ico", ".j2k", ".jp2", ".jxl"}
    | {".nef", ".npy", ".pcx", ".pgm", ".pnm", ".ppm", ".psd", ".raw", ".svg", ".tga"}
)
"""Pictures that are not read; folders that hold them get a remark."""

MAX_PIXELS = 200_000_000
"""Larger images are refused before they are decoded (decompression bombs)."""

_TURNED = range(5, 9)
"""EXIF orientations that swap width and height."""

_SIGNATURES = (
    (0, b"\xff\xd8\xff", "a damaged JPEG"),
    (0, b"\x89PNG", "a damaged PNG"),
    (4, b"ftypavi", "an AVIF picture"),
    (4, b"ftyphe", "a HEIC picture"),
    (4, b"ftypmif1", "a HEIC or AVIF picture"),
    (4, b"ftyp", "a video"),
    (4, b"jP  \r\n", "a JPEG 2000 picture"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (4, b"JXL ", "a JPEG XL picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"%!PS", "a PostScript program"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript program"),
    (0, b"%PDF", "a PDF document"),
    (0, b"8BPS", "a Photoshop picture"),
    (0, b"\x00\x00\x01\x00", "an icon"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (128, b"DICM", "a DICOM picture"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
)
"""Where files that are called images by mistake begin with what, and what they are."""

# Pillow warns of every damaged EXIF block and of large images, to nobody's use: what matters is refused or remarked on.
# Once and for all, because ``warnings.catch_warnings`` is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class ImageHeader:
    """What a header tells without decoding. The size is as displayed (EXIF orientation applied), in pixels."""

    width: int
    height: int
    mode: str
    rotated: bool
    frames: int = 1
    """Pages of a TIFF file or frames of an animation; the first one is read."""


def read_header(path: str | Path) -> ImageHeader:
    """Read an image's header; the pixels are not decoded.

    Raises:
        UserError: when the file is missing or not an image.
    """
    with _opened(path, str(path), "cannot be opened") as image:
        return _header(image)


def load_image(source: str | Path | bytes, on_remark: Callable[[str], None] | None = None) -> Image.Image:
    """Decode an image file (or its bytes) to RGB with EXIF orientation applied.

    Pixels of every type follow the rules of :func:`detheads.foundation.pixels.to_rgb`; of several pages or frames the
    first is taken.

    Args:
        source: a path, or the bytes of a file.
        on_remark: called with a sentence about what was left out or looks wrong.

    Raises:
        UserError: when the file is missing, truncated, not an image of :data:`FORMATS`, larger than ``MAX_PIXELS``, or
            its pixels have no stated range.
    """
    name = "the image" if isinstance(source, bytes) else str(source)
    with _opened(source, name, "cannot be decoded") as image:
        if image.width * image.height > MAX_PIXELS:
            raise UserError(
                f"{name} has {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}; shrink it first."
            )
        frames = _frames(image)
        if frames > 1 and on_remark is not None:
            on_remark(f"{name} has {frames} pages or frames; the first one is read.")
        image.load()
        return to_rgb(image, lambda sentence: on_remark(f"{name} {sentence}.") if on_remark is not None else None)


def load_grey(path: str | Path) -> NDArray[np.float32]:
    """The numbers of a picture of one channel, of 8 or 16 bits, as they are: ``[height, width]``.

    Raises:
        UserError: when the file is missing, damaged, too large, or has several channels.
    """
    with _opened(path, str(path), "cannot be decoded") as image:
        if image.width * image.height > MAX_PIXELS:
            raise UserError(f"{path} has {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}.")
        if image.mode != "L" and not image.mode.startswith("I"):
            raise UserError(f"{path} has pixels of type {image.mode}, not one channel of 8 or 16 bits.")
        return np.asarray(image).astype(np.float32)


@dataclass(frozen=True)
class Listing:
    """What lies in a folder of images."""

    names: tuple[str, ...]
    """Image files, relative to the folder, with ``/``, sorted."""
    left_out: Counter[str]
    """Pictures whose ending is not read: ending -> count."""
    unreadable: tuple[str, ...]
    """Sub-folders that may not be entered, and image names that are no file: pipes, links to nothing."""

    def remarks(self) -> list[str]:
        """A sentence, without its full stop, for each kind of thing that was left out."""
        sentences = []
        if self.left_out:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(self.left_out.items()))
            sentences.append(f"pictures with other endings are left out ({kinds}); convert them to PNG or JPEG")
        if self.unreadable:
            more = f" and {len(self.unreadable) - 1} more" if len(self.unreadable) > 1 else ""
            sentences.append(f"{self.unreadable[0]}{more} cannot be read and is left out")
        return sentences


def list_images(folder: Path) -> list[str]:
    """Names of the image files at any depth below ``folder``, relative to it, with ``/``, sorted."""
    return list(survey(folder).names)


def survey(folder: Path) -> Listing:
    """The image files at any depth below ``folder``, and what is passed over. Hidden files do not count.

    Linked folders are entered, each folder once.
    """
    names: list[str] = []
    left_out: Counter[str] = Counter()
    unreadable: list[str] = []
    for name in walk(folder, lambda error: unreadable.append(os.path.relpath(error.filename, folder))):
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a Path for each of a million names is slow
        suffix = suffix.lower()
        if os.path.basename(stem).startswith(".") or suffix not in IMAGE_SUFFIXES | OTHER_SUFFIXES:  # noqa: PTH119
            continue
        if suffix in OTHER_SUFFIXES:
            left_out[suffix] += 1
        elif os.path.isfile(os.path.join(folder, name)):  # noqa: PTH113, PTH118
            names.append(name)
        else:
            unreadable.append(name)
    return Listing(tuple(sorted(names)), left_out, tuple(sorted(unreadable)))


def walk(folder: Path, onerror: Callable[[OSError], None] | None = None) -> Iterator[str]:
    """Every file at any depth below ``folder``, relative to it, with ``/``; of each folder first its files, by name.

    Linked folders are entered, too: each folder once, and none that the given one lies in.
    """
    entered = {(status.st_dev, status.st_ino) for status in map(os.stat, folder.resolve().parents)}
    for place, folders, files in os.walk(folder, onerror=onerror, followlinks=True):
        try:
            status = os.stat(place)  # noqa: PTH116
        except OSError as error:  # removed meanwhile
            if onerror is not None:
                onerror(error)
            folders.clear()
            continue
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders.sort()
        below = Path(place).relative_to(folder).as_posix()
        for file in sorted(files):
            yield file if below == "." else f"{below}/{file}"


@contextmanager
def _opened(source: str | Path | bytes, name: str, failure: str) -> Iterator[Image.Image]:
    """An image before decoding; whatever goes wrong in the block becomes one sentence."""
    stream = io.BytesIO(source) if isinstance(source, bytes) else open_regular(source)
    with stream:
        try:
            with Image.open(stream, formats=FORMATS) as image:
                yield image
        except UserError:
            raise
        except UnidentifiedImageError:
            stream.seek(0)
            raise UserError(f"{name} is not an image {_but(stream.read(512))}; replace or remove it.") from None
        except PixelTypeError as error:
            raise UserError(f"{name} cannot be used: {error}.") from None
        except Exception as error:  # Pillow's plugins raise whatever their parsers run into
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{name} {failure} ({reason}); replace or remove it.") from None


def _but(head: bytes) -> str:
    """What a file is that is no image of a known format, from its first bytes."""
    found = next((kind for at, sign, kind in _SIGNATURES if head[at:].startswith(sign)), None)
    if found is not None:
        return f"that is read here but {found}"
    if sentence := likely(head):
        return f"but {sentence.removeprefix('is ')}" if sentence != "is empty" else "but an empty file"
    if head.isascii() and not set(head) - set(b"\t\n\r\x1b") - set(range(32, 127)):
        return f"but text ({head[:40].decode().strip()!r})"
    return "of a format that is read here"


def _header(image: Image.Image) -> ImageHeader:
    orientation = orientation_of(image)
    # Some versions of Pillow turn a TIFF file's size before decoding it, others after; its tags are as stored.
    tags = getattr(image, "tag_v2", None) if image.format == "TIFF" else None
    width, height = (int(tags[256]), int(tags[257])) if tags is not None else image.size
    if orientation in _TURNED:
        width, height = height, width
    return ImageHeader(width, height, image.mode, orientation != 1, _frames(image))


def _frames(image: Image.Image) -> int:
    # The further pictures of a multi-picture JPEG are previews and depth maps of the first.
    return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
