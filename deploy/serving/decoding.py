"""Uploaded bytes as a picture, within the server's limits."""

import io

from PIL import Image, UnidentifiedImageError

from detheads.deploy.serving.refusals import Refused
from detheads.deploy.serving.settings import Settings
from detheads.foundation.errors import UserError
from detheads.foundation.images import FORMATS, load_image


def decode(content: bytes, settings: Settings) -> Image.Image:
    """The RGB image of an uploaded file, turned as its EXIF orientation says.

    Raises:
        Refused: 415 when it is no picture of the types that are served, 413 when it has too many pixels, 400 when it
            is damaged or empty.
    """
    if not content:
        raise Refused(400, "the upload is empty; send the bytes of a picture.")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as header:
            kind, (width, height) = header.format or "", header.size
    except UnidentifiedImageError:
        kind, width, height = "", 0, 0
    except Exception:  # a damaged header makes Pillow's plugins raise anything; load_image says it in a sentence
        kind, width, height = settings.types[0], 0, 0
    if kind == "MPO":  # a JPEG with further pictures
        kind = "JPEG"
    if width * height > settings.max_pixels:
        raise Refused(
            413, f"the picture has {width}x{height} pixels, more than {settings.max_pixels:,}; shrink it first."
        )
    if kind and kind not in settings.types:
        raise Refused(415, f"pictures of type {kind} are not taken here; send {', '.join(settings.types)}.")
    try:
        return load_image(content)
    except UserError as error:
        raise Refused(400 if kind else 415, str(error)) from None
