"""What a dataset holds, in numbers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from detheads.data.dataset import Dataset
from detheads.data.parsed import CLIPPED

SIZE_EDGES = (0.1, 0.2, 0.4)
"""Borders between tiny, small, medium and large objects: square root of the box's share of the image area."""
SIZE_NAMES = ("tiny", "small", "medium", "large")


def summarize(dataset: Dataset) -> dict[str, Any]:
    """Counts and distributions of a dataset as plain JSON values; sizes are in original pixels."""
    per_image = np.array([len(objects.boxes) for objects in dataset.objects])
    labels = np.concatenate([objects.labels for objects in dataset.objects])
    boxes = np.concatenate([objects.boxes for objects in dataset.objects])
    sides = np.array([(image.width, image.height) for image in dataset.images], dtype=np.float64)
    extent = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) / np.repeat(np.prod(sides, axis=1), per_image))
    images_of_class = np.zeros(len(dataset.categories), dtype=np.int64)
    for objects in dataset.objects:
        images_of_class[np.unique(objects.labels)] += 1
    counts = np.bincount(labels, minlength=len(dataset.categories))
    return {
        "dataset": dataset.name,
        "split": dataset.split,
        "images": len(dataset.images),
        "boxes": len(boxes),
        "crowd_boxes": int(sum(objects.crowd.sum() for objects in dataset.objects)),
        "images_without_objects": int((per_image == 0).sum()),
        "most_boxes_in_an_image": int(per_image.max()),
        "classes": [
            {"id": category.id, "name": category.name, "boxes": int(count), "images": int(images)}
            for category, count, images in zip(dataset.categories, counts, images_of_class, strict=True)
        ],
        "image_width": _range(sides[:, 0]),
        "image_height": _range(sides[:, 1]),
        "box_width": _range(boxes[:, 2] - boxes[:, 0]),
        "box_height": _range(boxes[:, 3] - boxes[:, 1]),
        "object_sizes": dict(
            zip(SIZE_NAMES, np.bincount(np.digitize(extent, SIZE_EDGES), minlength=4).tolist(), strict=True)
        ),
        "dropped": {reason: count for reason, count in dataset.dropped.items() if reason != CLIPPED},
        "clipped": dataset.dropped[CLIPPED],
    }


def _range(values: NDArray[np.float64]) -> dict[str, float] | None:
    if not len(values):
        return None
    low, middle, high = np.percentile(values, (0, 50, 100)).tolist()
    return {"min": low, "median": middle, "max": high}
