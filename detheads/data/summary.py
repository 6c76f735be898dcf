"""What a dataset holds, in numbers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from detheads.data.dataset import Dataset
from detheads.data.parsed import CLIPPED

AREA_EDGES = (32.0**2, 96.0**2)
"""Borders between COCO's small, medium and large objects: area in pixels of the original picture."""
SIZE_NAMES = ("small", "medium", "large")


def count_classes(dataset: Dataset) -> list[dict[str, Any]]:
    """For each class its id, its name, its boxes and the images with at least one, crowds included."""
    labels = np.concatenate([np.zeros(0, np.int64), *(objects.labels for objects in dataset.objects)])
    counts = np.bincount(labels, minlength=len(dataset.categories))
    images_of_class = np.zeros(len(dataset.categories), dtype=np.int64)
    for objects in dataset.objects:
        images_of_class[np.unique(objects.labels)] += 1
    return [
        {"id": category.id, "name": category.name, "boxes": int(count), "images": int(images)}
        for category, count, images in zip(dataset.categories, counts, images_of_class, strict=True)
    ]


def summarize(dataset: Dataset) -> dict[str, Any]:
    """Counts and distributions of a dataset as plain JSON values; sizes are in pixels of the original pictures.

    Small, medium and large are COCO's: by the object's ``area`` (its mask's where the dataset has it), crowds left out.
    """
    per_image = np.array([len(objects.boxes) for objects in dataset.objects])
    boxes = np.concatenate([objects.boxes for objects in dataset.objects])
    sides = np.array([(image.width, image.height) for image in dataset.images], dtype=np.float64)
    area = np.concatenate([objects.area[~objects.crowd] for objects in dataset.objects])
    sizes = np.bincount(np.digitize(area, AREA_EDGES), minlength=len(SIZE_NAMES)).tolist()
    return {
        "dataset": dataset.name,
        "split": dataset.split,
        "images": len(dataset.images),
        "boxes": len(boxes),
        "crowd_boxes": int(sum(objects.crowd.sum() for objects in dataset.objects)),
        "images_without_objects": int((per_image == 0).sum()),
        "most_boxes_in_an_image": int(per_image.max()),
        "classes": count_classes(dataset),
        "image_width": _range(sides[:, 0]),
        "image_height": _range(sides[:, 1]),
        "box_width": _range(boxes[:, 2] - boxes[:, 0]),
        "box_height": _range(boxes[:, 3] - boxes[:, 1]),
        "object_sizes": dict(zip(SIZE_NAMES, sizes, strict=True)),
        "dropped": {reason: count for reason, count in dataset.dropped.items() if reason != CLIPPED},
        "clipped": dataset.dropped[CLIPPED],
    }


def _range(values: NDArray[np.float64]) -> dict[str, float] | None:
    if not len(values):
        return None
    low, middle, high = np.percentile(values, (0, 50, 100)).tolist()
    return {"min": low, "median": middle, "max": high}
