"""Example pictures of a report: the ground truth and what the best heads found, side by side."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from detheads.arena.leaderboard import Entry
from detheads.arena.records import Setting, detections_path
from detheads.cache.reader import FeatureCache
from detheads.data import Dataset, read_dataset
from detheads.foundation.coco_results import read_results
from detheads.foundation.drawing import draw_boxes
from detheads.foundation.errors import UserError
from detheads.foundation.images import load_image

SCORE = 0.3
"""Only detections above this score are drawn."""
PANEL_SIZES = (520, 400, 300, 220, 160)
"""Long side of a panel in pixels: the largest that keeps all panels together below ``BUDGET``."""
BUDGET = 3_200_000
"""Bytes of all panels; embedded in a page they grow by a third."""
QUALITY = 82
CAPTION, GAP = 26, 6
"""Height of the line above a panel of a strip, and the pixels between two panels."""


@dataclass(frozen=True)
class Found:
    """Boxes of one image: xyxy in original pixels ``[N, 4]``, class indices ``[N]``, scores ``[N]`` or None."""

    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Panel:
    """A drawn picture as JPEG, with what it shows."""

    caption: str
    jpeg: bytes


@dataclass(frozen=True)
class Example:
    """One validation image: the ground truth and a panel a head."""

    image_id: int
    file_name: str
    panels: tuple[Panel, ...]

    def strip(self) -> Image.Image:
        """All panels in one row, their captions above them."""
        pictures = [Image.open(io.BytesIO(panel.jpeg)) for panel in self.panels]
        width, height = pictures[0].size
        strip = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height + CAPTION), "white")
        draw, font = ImageDraw.Draw(strip), ImageFont.load_default(size=15)
        for place, (panel, picture) in enumerate(zip(self.panels, pictures, strict=True)):
            left = place * (width + GAP)
            strip.paste(picture, (left, CAPTION))
            draw.text((left + 2, 4), panel.caption, fill="black", font=font)
        return strip


def draw_examples(
    arena: Path, setting: Setting, entries: Sequence[Entry], data: Path, pictures: int, heads_drawn: int
) -> list[Example]:
    """Examples of the validation images with the most objects.

    Args:
        arena: the folder with the heads' detections.
        entries: the leaderboard; its first heads that finished are drawn.
        data: dataset folder with the image files.
        pictures: number of images at most.
        heads_drawn: heads a picture at most.

    Raises:
        UserError: when the cache of the validation images is gone or another one, or an image file is missing.
    """
    cache = FeatureCache(Path(setting.val_cache))
    if cache.sha256 != setting.val_sha256:
        raise UserError(
            f"{cache.folder} is no longer the cache the arena was run on; build that one again or leave out --data."
        )
    truth = cache.dataset
    chosen = _with_most_objects(truth, pictures)
    paths = _image_paths(truth, chosen, data, cache.manifest.split)
    ids = {truth.images[index].id: index for index in chosen}
    best = [entry for entry in entries if entry.status == "done"][:heads_drawn]
    found = {entry.head: _detections(arena, entry.head, truth, ids) for entry in best}
    for size in PANEL_SIZES:
        examples = []
        for index in chosen:
            image = load_image(paths[index])
            objects = truth.objects[index]
            shown = Found(objects.boxes[~objects.crowd], objects.labels[~objects.crowd])
            panels = [_panel(f"ground truth: {_boxes(len(shown.boxes))}", image, shown, truth.class_names, size)]
            for entry in best:
                shown = found[entry.head][index]
                caption = f"{entry.head}: {_boxes(len(shown.boxes))}"
                panels.append(_panel(caption, image, shown, truth.class_names, size))
            record = truth.images[index]
            examples.append(Example(record.id, record.file_name, tuple(panels)))
        if sum(len(panel.jpeg) for example in examples for panel in example.panels) <= BUDGET:
            break
    return examples


def _with_most_objects(dataset: Dataset, count: int) -> list[int]:
    """Indices of the images with the most objects, crowd regions not counted; of equal ones the lower id."""
    order = sorted(
        range(len(dataset.images)),
        key=lambda index: (-int((~dataset.objects[index].crowd).sum()), dataset.images[index].id),
    )
    return order[:count]


def _image_paths(truth: Dataset, chosen: Sequence[int], data: Path, split: str) -> dict[int, Path]:
    """Files of the chosen images, by index."""
    known = {(image.id, image.file_name): image.path for image in read_dataset(data, split).images}
    paths = {}
    for index in chosen:
        image = truth.images[index]
        if (image.id, image.file_name) not in known:
            raise UserError(
                f"{data} lists no image {image.file_name} in its split {split}; give the dataset folder that the "
                f"validation cache was built from ({truth.name})."
            )
        paths[index] = known[image.id, image.file_name]
    return paths


def _detections(arena: Path, head: str, truth: Dataset, ids: dict[int, int]) -> dict[int, Found]:
    """A head's detections above ``SCORE``, by image index; ``ids`` gives the index of each image id wanted."""
    label_of = {category.id: label for label, category in enumerate(truth.categories)}
    kept: dict[int, list[tuple[list[float], int, float]]] = {index: [] for index in ids.values()}
    for entry in read_results(detections_path(arena, head)):
        if entry["image_id"] in ids and entry["score"] > SCORE:
            kept[ids[entry["image_id"]]].append((entry["bbox"], label_of[entry["category_id"]], entry["score"]))
    found = {}
    for index, each in kept.items():
        boxes = np.array([box for box, *_ in each], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels, scores = np.array([label for _, label, _ in each], np.int64), np.array([score for *_, score in each])
        found[index] = Found(boxes, labels, scores)
    return found


def _panel(caption: str, image: Image.Image, found: Found, names: Sequence[str], size: int) -> Panel:
    """The image scaled to ``size`` with the boxes drawn afterwards, so that lines and names stay crisp."""
    scale = size / max(image.size)
    scaled = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    ratio = np.tile(np.array(scaled.size) / np.array(image.size), 2)
    labels = [names[label] for label in found.labels]
    stream = io.BytesIO()
    draw_boxes(scaled, found.boxes * ratio, labels, found.labels, found.scores).save(stream, "JPEG", quality=QUALITY)
    return Panel(caption, stream.getvalue())


def _boxes(count: int) -> str:
    return f"{count} {'box' if count == 1 else 'boxes'}"
