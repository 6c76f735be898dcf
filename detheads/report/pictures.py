"""Pictures of a report: one image several times, side by side, with other boxes drawn on each."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from detheads.data import Dataset, ImageRecord, read_dataset
from detheads.foundation.drawing import draw_boxes
from detheads.foundation.errors import UserError
from detheads.foundation.images import load_image
from detheads.foundation.lettering import Lettering

PANEL_SIZES = (520, 400, 300, 220, 160)
"""Long side of a panel in pixels: the largest that keeps all panels together below ``BUDGET``."""
BUDGET = 3_200_000
"""Bytes of all panels; embedded in a page they grow by a third."""
QUALITY = 82
CAPTION, GAP = 26, 6
"""Height of the line above a panel of a strip, and the pixels between two panels."""


@dataclass(frozen=True)
class Drawing:
    """Boxes to draw on an image.

    Attributes:
        caption: what they are.
        boxes: xyxy in original pixels, ``[N, 4]``.
        names: written beside each box, ``[N]``.
        colors: indices into the palette, ``[N]``.
        scores: ``[N]``, or None.
    """

    caption: str
    boxes: NDArray[np.float64]
    names: Sequence[str]
    colors: Sequence[int] | NDArray[np.int64]
    scores: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Scene:
    """An image and the drawings that are made of it."""

    image: ImageRecord
    path: Path
    drawings: Sequence[Drawing]


@dataclass(frozen=True)
class Panel:
    """A drawn picture as JPEG, with what it shows."""

    caption: str
    jpeg: bytes


@dataclass(frozen=True)
class Example:
    """One drawn image: a panel a drawing."""

    image_id: int
    file_name: str
    panels: tuple[Panel, ...]

    def strip(self) -> Image.Image:
        """All panels in one row, their captions above them."""
        pictures = [Image.open(io.BytesIO(panel.jpeg)) for panel in self.panels]
        width, height = pictures[0].size
        strip = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height + CAPTION), "white")
        draw, lettering = ImageDraw.Draw(strip), Lettering()
        for place, (panel, picture) in enumerate(zip(self.panels, pictures, strict=True)):
            left = place * (width + GAP)
            strip.paste(picture, (left, CAPTION))
            if (line := lettering.fitted(panel.caption, "", size=15, width=width - 4)) is not None:
                for piece in line.pieces:
                    piece.draw(draw, (left + 2, CAPTION - 7), "black")
        return strip


def draw_examples(scenes: Sequence[Scene]) -> list[Example]:
    """The scenes drawn, as large as ``BUDGET`` allows.

    Raises:
        UserError: when an image file is missing, damaged, or of another size than its record says.
    """
    examples: list[Example] = []
    for size in PANEL_SIZES:
        examples = [draw_scene(scene, size) for scene in scenes]
        if sum(len(panel.jpeg) for example in examples for panel in example.panels) <= BUDGET:
            break
    return examples


def image_paths(known: Dataset, chosen: Sequence[int], data: Path) -> dict[int, Path]:
    """Files of some images of a cache's dataset, by index.

    Args:
        known: the images as a cache tells of them: without their files.
        chosen: indices into its images.
        data: the dataset folder.

    Raises:
        UserError: when the folder is no dataset, or lacks the split or one of the images.
    """
    given = {(image.id, image.file_name): image.path for image in read_dataset(data, known.split).images}
    paths = {}
    for index in chosen:
        image = known.images[index]
        if (image.id, image.file_name) not in given:
            raise UserError(
                f"{data} lists no image {image.file_name} in its split {known.split}; give the dataset folder that the "
                f"validation cache was built from ({known.name})."
            )
        paths[index] = given[image.id, image.file_name]
    return paths


def boxes_text(count: int) -> str:
    """``3 boxes``."""
    return f"{count} {'box' if count == 1 else 'boxes'}"


def draw_scene(scene: Scene, size: int) -> Example:
    """One scene drawn, the long side of its panels ``size`` pixels.

    Raises:
        UserError: as :func:`draw_examples`.
    """
    image, record = load_image(scene.path), scene.image
    if image.size != (record.width, record.height):
        raise UserError(
            f"{scene.path} has {image.width}x{image.height} pixels, but {record.width}x{record.height} when the cache "
            "was built; give the dataset folder that it was built from."
        )
    return Example(record.id, record.file_name, tuple(_panel(image, drawing, size) for drawing in scene.drawings))


def _panel(image: Image.Image, drawing: Drawing, size: int) -> Panel:
    """The image scaled to ``size`` with the boxes drawn afterwards, so that lines and names stay crisp."""
    scale = size / max(image.size)
    scaled = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    ratio = np.tile(np.array(scaled.size) / np.array(image.size), 2)
    drawn = draw_boxes(scaled, drawing.boxes * ratio, drawing.names, drawing.colors, drawing.scores)
    stream = io.BytesIO()
    drawn.save(stream, "JPEG", quality=QUALITY)
    return Panel(drawing.caption, stream.getvalue())
