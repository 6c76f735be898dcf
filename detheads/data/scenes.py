"""The embedded default dataset: generated scenes of textured, overlapping objects with exact boxes.

Everything is drawn with numpy from a seeded PCG64 stream and stored without loss, so the same seed gives the same
pixels and boxes everywhere. Picture ``i`` of a split does not depend on how many pictures are asked for.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detheads.data.backgrounds import Canvas, add_squiggles, background
from detheads.data.shapes import CLASSES, ObjectClass
from detheads.foundation.atomic import write_json
from detheads.foundation.claims import new_folder
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, silent

MIN_EXTENT, MAX_EXTENT = 0.16, 0.48
"""Range of an object's extent as a share of the picture's long side."""
MIN_VISIBLE = 0.35
"""Objects of which later ones leave less than this share visible are not drawn at all."""
EMPTY_SHARE = 0.05
"""Share of pictures without an object."""


@dataclass(frozen=True)
class Scene:
    """One generated picture."""

    pixels: NDArray[np.uint8]
    """RGB ``[H, W, 3]``."""
    boxes: NDArray[np.int64]
    """Tight boxes of whole object shapes, clipped to the picture: xyxy, pixels, ``[M, 4]``."""
    labels: NDArray[np.int64]
    """Index into ``shapes.CLASSES``, ``[M]``."""


@dataclass(frozen=True)
class Sprite:
    """A drawn object on its window of the picture."""

    rows: slice
    columns: slice
    alpha: Canvas
    """Coverage 0..1, ``[h, w]``."""
    color: Canvas
    """RGB 0..255, ``[h, w, 3]``."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Pixels at least half covered, ``[h, w]``."""
        return self.alpha >= 0.5

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Tight xyxy box of the mask in pixels of the picture; the mask must not be empty."""
        across, down = np.flatnonzero(self.mask.any(axis=0)), np.flatnonzero(self.mask.any(axis=1))
        left, top = self.columns.start, self.rows.start
        return int(left + across[0]), int(top + down[0]), int(left + across[-1]) + 1, int(top + down[-1]) + 1

    def paint(self, canvas: Canvas) -> None:
        """Lay the object over ``canvas`` ``[H, W, 3]``."""
        window = canvas[self.rows, self.columns]
        window += self.alpha[..., None] * (self.color - window)


def generate(
    folder: str | Path,
    train: int,
    val: int,
    size: int = 320,
    seed: int = 0,
    on_progress: Progress = silent,
) -> None:
    """Write a COCO-style folder with the splits ``train`` and ``val`` of generated scenes.

    Args:
        folder: where to write; it must not exist, or be empty. It appears whole or not at all.
        train: pictures of the training split.
        val: pictures of the validation split.
        size: long side in pixels, at least 64; the short side varies.
        seed: another seed gives other pictures.

    Raises:
        UserError: when the folder is not empty or a number is out of range.
    """
    if min(train, val) < 1:
        raise UserError(f"scenes need at least one picture per split; asked for {train} and {val}.")
    if not 64 <= size <= 4096:
        raise UserError(f"scenes can be 64 to 4096 pixels long, not {size}.")
    if seed < 0:
        raise UserError(f"a seed is a whole number from 0, not {seed}.")
    with new_folder(Path(folder)) as partial:
        for stream, (split, count) in enumerate((("train", train), ("val", val))):
            (partial / split).mkdir()
            scenes = []
            for index in range(count):
                scene = render_scene(np.random.Generator(np.random.PCG64([seed, stream, index])), size)
                name = f"{index + 1:06d}.png"
                Image.fromarray(scene.pixels).save(partial / split / name, compress_level=1)
                scenes.append((name, scene.pixels.shape[1], scene.pixels.shape[0], scene))
                on_progress("drawing scenes", stream * train + index + 1, train + val)
            write_json(partial / "annotations" / f"instances_{split}.json", _coco_json(scenes), indent=None)


def render_scene(random: np.random.Generator, size: int) -> Scene:
    """Draw one scene whose long side is ``size`` pixels."""
    short = round(size * (0.62 + 0.38 * random.random()))
    width, height = (size, short) if random.random() < 0.6 else (short, size)
    canvas = background(random, width, height)
    add_squiggles(random, canvas)
    count = 0 if random.random() < EMPTY_SHARE else int(random.integers(1, 8))
    placed = []
    for _ in range(count):
        label = int(random.integers(len(CLASSES)))
        sprite = draw_object(random, CLASSES[label], width, height)
        if sprite is not None:
            placed.append((label, sprite))
    visible = _drop_hidden(placed, width, height)
    for _, sprite in visible:
        sprite.paint(canvas)
    return Scene(
        np.clip(np.rint(canvas), 0, 255).astype(np.uint8),
        np.array([sprite.box for _, sprite in visible], dtype=np.int64).reshape(-1, 4),
        np.array([label for label, _ in visible], dtype=np.int64),
    )


def draw_object(random: np.random.Generator, kind: ObjectClass, width: int, height: int) -> Sprite | None:
    """One object of a class with random place, size, angle, aspect and colours.

    Returns:
        The object, or None when too little of it would be inside the picture of ``width x height`` pixels.
    """
    long_side = max(width, height)
    # Uniform in the logarithm: as many objects between 16 % and 28 % as between 28 % and 48 %.
    extent = long_side * MIN_EXTENT * (MAX_EXTENT / MIN_EXTENT) ** random.random()
    extent = min(extent, 0.85 * min(width, height))
    aspect = math.exp((random.random() - 0.5) * 0.5)
    radius_u, radius_v = extent / 2 * math.sqrt(aspect), extent / 2 / math.sqrt(aspect)
    angle = random.random() * 2 * math.pi
    # Centres may lie close to the border: part of the object is then cut off.
    center_x, center_y = (0.06 + 0.88 * random.random()) * width, (0.06 + 0.88 * random.random()) * height
    first, second = _two_colors(random)
    light = random.random() * 2 * math.pi

    reach = math.hypot(radius_u, radius_v) * 1.05 + 2
    columns = slice(max(0, math.floor(center_x - reach)), min(width, math.ceil(center_x + reach)))
    rows = slice(max(0, math.floor(center_y - reach)), min(height, math.ceil(center_y + reach)))
    x = (np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5 - center_x))[None, :]
    y = (np.arange(rows.start, rows.stop, dtype=np.float32) + np.float32(0.5 - center_y))[:, None]
    cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    u = (x * cosine + y * sine) / np.float32(radius_u)
    v = (y * cosine - x * sine) / np.float32(radius_v)

    pixels_per_unit = np.float32(min(radius_u, radius_v))
    depth = kind.distance(u, v) * pixels_per_unit
    alpha = np.clip(0.5 - depth, 0, 1).astype(np.float32)
    whole = math.pi * radius_u * radius_v
    if np.count_nonzero(alpha >= 0.5) < 0.2 * whole:
        return None
    color = first + kind.texture(u, v)[..., None] * (second - first)
    shade = 1 + 0.18 * (x * np.float32(math.cos(light)) + y * np.float32(math.sin(light))) / np.float32(reach)
    rim = np.clip(depth + np.float32(1.5 + 0.04 * extent), 0, 1)[..., None]
    color = color * shade[..., None] * (1 - np.float32(0.55) * rim)
    return Sprite(rows, columns, alpha, np.clip(color, 0, 255).astype(np.float32))


def _two_colors(random: np.random.Generator) -> tuple[Canvas, Canvas]:
    """A saturated colour and one that differs from it in brightness, each ``[3]``."""
    hue = random.random() * 6
    ramp = np.array([abs(hue - 3) - 1, 2 - abs(hue - 2), 2 - abs(hue - 4)])
    vivid = np.clip(ramp, 0, 1) * 200 + 40 * random.random()
    bright = float(vivid @ (0.299, 0.587, 0.114))
    contrast = random.random(3) * 60
    return vivid.astype(np.float32), (contrast if bright > 120 else 255 - contrast).astype(np.float32)


def _drop_hidden(placed: list[tuple[int, Sprite]], width: int, height: int) -> list[tuple[int, Sprite]]:
    """The objects that stay visible, in painting order; judged from the topmost down."""
    covered = np.zeros((height, width), dtype=np.bool_)
    visible = []
    for label, sprite in reversed(placed):
        window = covered[sprite.rows, sprite.columns]
        mask = sprite.mask
        if np.count_nonzero(mask & ~window) >= MIN_VISIBLE * np.count_nonzero(mask):
            window |= mask
            visible.append((label, sprite))
    return visible[::-1]


def _coco_json(scenes: list[tuple[str, int, int, Scene]]) -> dict[str, object]:
    annotations: list[dict[str, object]] = []
    for image_id, (_, _, _, scene) in enumerate(scenes, start=1):
        for (x1, y1, x2, y2), label in zip(scene.boxes.tolist(), scene.labels.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    return {
        "images": [
            {"id": image_id, "file_name": name, "width": width, "height": height}
            for image_id, (name, width, height, _) in enumerate(scenes, start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": kind.name} for label, kind in enumerate(CLASSES)],
    }
