"""Datasets and detections made by hand or drawn at random, without pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detheads.data import Category, Dataset, ImageRecord, Objects

Box = tuple[float, float, float, float]
SIDE = 200


def dataset(images: Sequence[Sequence[tuple[int, Box]]], classes: int = 2, *, crowds: Sequence[int] = ()) -> Dataset:
    """Images with (label, xyxy) objects; ids with gaps and falling, as datasets have them.

    Args:
        crowds: images whose first object is a crowd region.
    """
    categories = tuple(Category(90 - 7 * label, f"class {label}") for label in range(classes))
    records = tuple(
        ImageRecord(500 - 3 * index, f"{index}.png", Path("gone"), SIDE, SIDE) for index in range(len(images))
    )
    objects = []
    for index, image in enumerate(images):
        boxes = np.array([box for _, box in image], np.float64).reshape(-1, 4)
        crowd = np.zeros(len(image), bool)
        crowd[:1] = index in crowds
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        objects.append(Objects(boxes, np.array([label for label, _ in image], np.int64), crowd, area))
    return Dataset("by hand", "val", categories, records, tuple(objects))


def found(known: Dataset, image: int, label: int, box: Box, score: float) -> dict[str, Any]:
    """A COCO result of a detection given as xyxy."""
    x1, y1, x2, y2 = box
    return {
        "image_id": known.images[image].id,
        "category_id": known.categories[label].id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "score": score,
    }


def crowded(seed: int, images: int = 6, classes: int = 3) -> tuple[Dataset, list[dict[str, Any]]]:
    """Random objects, some crowds, and detections of every kind; many scores are equal."""
    random = np.random.default_rng(seed)
    pictures = []
    for _ in range(images):
        corners = random.integers(0, 120, (random.integers(0, 6), 2))
        sides = random.integers(20, 80, (len(corners), 2))
        boxes = np.concatenate((corners, corners + sides), axis=1)
        pictures.append([(int(random.integers(classes)), tuple(map(float, box))) for box in boxes])
    known = dataset(pictures, classes, crowds=[0, 1])
    results = []
    for image, objects in enumerate(pictures):
        for label, box in objects:
            for _ in range(random.integers(0, 4)):
                moved = np.array(box) + random.normal(0, 8, 4)
                moved[2:] = np.maximum(moved[2:], moved[:2] + 1)
                guess = label if random.random() < 0.7 else int(random.integers(classes))
                results.append(found(known, image, guess, tuple(moved.tolist()), round(float(random.random()), 1)))
        for _ in range(3):
            x, y = random.uniform(0, 160, 2).tolist()
            label = int(random.integers(classes))
            results.append(found(known, image, label, (x, y, x + 30, y + 30), round(float(random.random()), 1)))
    return known, results


def iou(first: Sequence[float], second: Sequence[float]) -> float:
    """Of two xyxy boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return shared / (areas - shared)


def corners(result: Mapping[str, Any]) -> Box:
    """The box of a COCO result as xyxy."""
    x, y, width, height = result["bbox"]
    return x, y, x + width, y + height
