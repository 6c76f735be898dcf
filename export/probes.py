"""Pictures of extreme shape, cut from the dataset's own: what ordinary validation images do not exercise."""

from collections.abc import Iterator, Sequence

from PIL import Image

from detheads.data.dataset import ImageRecord
from detheads.foundation.images import load_image

STRIP = 8
"""Aspect ratio of the strips."""


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` of ``range(count)``, spread over all of it."""
    wanted = min(count, wanted)
    return [round(index * (count - 1) / max(1, wanted - 1)) for index in range(wanted)]


def odd_pictures(records: Sequence[ImageRecord], images: int = 3) -> Iterator[tuple[str, Image.Image]]:
    """From some images the middle strip 8:1, the middle strip 1:8, and an odd-sided crop, each with its name."""
    for index in evenly_spaced(len(records), images):
        name = records[index].file_name
        image = load_image(records[index].path)
        width, height = image.size
        thin, narrow = max(1, min(height, width // STRIP)), max(1, min(width, height // STRIP))
        top, left = (height - thin) // 2, (width - narrow) // 2
        yield f"{name}, middle strip {STRIP}:1", image.crop((0, top, width, top + thin))
        yield f"{name}, middle strip 1:{STRIP}", image.crop((left, 0, left + narrow, height))
        yield f"{name}, odd sides", image.crop((0, 0, width - (width + 1) % 2, height - (height + 1) % 2))
