"""What a caller may give as a picture, turned into the RGB image that the graph's letterbox takes."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detheads.foundation.errors import UserError
from detheads.foundation.images import load_image
from detheads.foundation.pixels import PixelTypeError, to_rgb

Picture = Image.Image | NDArray[np.uint8] | str | os.PathLike[str] | bytes
"""A PIL image of any mode, an array, a file, or a file's content."""

Channels = Literal["RGB", "BGR"]
"""Order of an array's colours; OpenCV's is BGR."""

_WANTED = "a uint8 array [height, width, 3] (or grey [height, width], or with alpha [height, width, 4])"


def as_rgb(picture: Picture, channels: Channels = "RGB") -> Image.Image:
    """A picture as an RGB image, turned as its EXIF orientation says, transparency laid on white.

    Args:
        picture: see :data:`Picture`. Arrays are uint8: ``[H, W, 3]``, grey ``[H, W]`` or ``[H, W, 1]``, with alpha
            ``[H, W, 4]``.
        channels: order of an array's colours; of no meaning for anything else.

    Raises:
        UserError: when it is of another type or shape, or a file that cannot be decoded.
    """
    if isinstance(picture, Image.Image):
        try:
            return to_rgb(picture)
        except PixelTypeError as error:
            raise UserError(f"the {picture.mode} image cannot be used: {error}.") from None
        except (OSError, SyntaxError, ValueError) as error:  # decoded only now, where it comes from a file
            raise UserError(f"the {picture.mode} image cannot be decoded ({error}).") from None
    if isinstance(picture, np.ndarray):
        return _from_array(picture, channels)
    if isinstance(picture, bytes | bytearray | memoryview):
        return load_image(bytes(picture))
    if isinstance(picture, str | os.PathLike):
        return load_image(Path(picture))
    raise UserError(
        f"a picture is a PIL image, a numpy array, a path or the bytes of a file, not {type(picture).__name__}."
    )


def is_one(pictures: Any) -> bool:
    """Whether ``pictures`` is one picture and no collection; an array of four axes is a collection."""
    if isinstance(pictures, np.ndarray):
        return pictures.ndim < 4
    return isinstance(pictures, Image.Image | str | os.PathLike | bytes | bytearray | memoryview)


def each(pictures: Any) -> Iterator[Picture]:
    """The pictures of a collection.

    Raises:
        UserError: when it cannot be iterated over.
    """
    if not isinstance(pictures, Iterable):
        raise UserError(f"give a picture or a list of pictures, not {type(pictures).__name__}.")
    return iter(pictures)


def _from_array(array: NDArray[Any], channels: Channels) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in {2, 3} or 0 in array.shape or (array.ndim == 3 and array.shape[2] not in {3, 4}):
        order = (
            " Move the colours last: array.transpose(1, 2, 0)." if array.ndim == 3 and array.shape[0] in {3, 4} else ""
        )
        raise UserError(f"an array of shape {list(array.shape)} is no picture; give {_WANTED}.{order}")
    if array.dtype != np.uint8:
        raise UserError(
            f"an array of {array.dtype} is no picture, since its range cannot be known; scale it to 0..255 and give "
            f"{_WANTED}."
        )
    if channels == "BGR" and array.ndim == 3:
        array = array[:, :, [2, 1, 0, *range(3, array.shape[2])]]
    return to_rgb(Image.fromarray(np.ascontiguousarray(array)))
