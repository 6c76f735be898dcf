"""The one dataset type that every reader produces and everything else consumes."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detheads.foundation.errors import UserError

SPLIT_NAME = re.compile(r"(train|val|valid|test|dev|eval|trainval|minival)([a-z_.-]*\d*)", re.IGNORECASE)
"""Folders and files that are called after a split: ``train``, ``val2017``, ``validation``, ``test-dev``."""


@dataclass(frozen=True)
class Category:
    """A class as its dataset names it. ``id`` is the dataset's own (it need not be contiguous)."""

    id: int
    name: str


@dataclass(frozen=True)
class ImageRecord:
    """One image file. ``id`` is the dataset's own; the size is the original frame's (EXIF applied)."""

    id: int
    file_name: str
    path: Path
    width: int
    height: int


@dataclass(frozen=True)
class Objects:
    """The annotated objects of one image, ``M`` of them; ``M`` may be 0."""

    boxes: NDArray[np.float64]
    """xyxy, original pixels, ``[M, 4]``."""
    labels: NDArray[np.int64]
    """Index into ``Dataset.categories``, ``[M]``."""
    crowd: NDArray[np.bool_]
    """COCO ``iscrowd``: ignored in training, handled by pycocotools in evaluation, ``[M]``."""
    area: NDArray[np.float64]
    """COCO ``area`` in original pixels, ``[M]`` (the box area where the source has none)."""

    @classmethod
    def empty(cls) -> "Objects":
        return cls(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0))


@dataclass(frozen=True)
class Dataset:
    """Images with boxes. ``objects[i]`` belongs to ``images[i]``; labels are indices into ``categories``."""

    name: str
    split: str
    categories: tuple[Category, ...]
    images: tuple[ImageRecord, ...]
    objects: tuple[Objects, ...]
    dropped: Counter[str] = field(default_factory=Counter)
    """Boxes left out by the reader: reason -> count."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Images and annotations left out on request (``skip_bad``): file or annotation -> why."""
    remarks: tuple[str, ...] = ()
    """What the reader repaired or found suspicious, one sentence each."""

    @property
    def class_names(self) -> list[str]:
        return [category.name for category in self.categories]

    def restricted(self, categories: Sequence[Category]) -> "Dataset":
        """The same images with the objects of some of its categories only; labels count those."""
        labels = np.full(len(self.categories), -1, np.int64)
        for label, category in enumerate(categories):
            labels[self.categories.index(category)] = label
        objects = []
        for known in self.objects:
            kept = labels[known.labels] >= 0
            objects.append(Objects(known.boxes[kept], labels[known.labels[kept]], known.crowd[kept], known.area[kept]))
        return replace(self, categories=tuple(categories), objects=tuple(objects))

    def without(self, bad: Mapping[int, str]) -> "Dataset":
        """The dataset without some images, given by their positions with the reasons; ``skipped`` has them too.

        Raises:
            UserError: when no image would be left.
        """
        skipped = {str(self.images[index].path): reason for index, reason in bad.items()}
        if len(bad) == len(self.images) and bad:
            raise UserError(
                f"no image of {self.name} {self.split} can be used; the first: {next(iter(skipped))}: "
                f"{next(iter(skipped.values()))}."
            )
        kept = [index for index in range(len(self.images)) if index not in bad]
        return replace(
            self,
            images=tuple(self.images[index] for index in kept),
            objects=tuple(self.objects[index] for index in kept),
            skipped={**self.skipped, **skipped},
        )

    def coco_json(self) -> dict[str, Any]:
        """The dataset as a COCO annotation object, with its own image and category ids."""
        annotations: list[dict[str, Any]] = []
        for image, objects in zip(self.images, self.objects, strict=True):
            for (x1, y1, x2, y2), label, crowd, area in zip(
                objects.boxes.tolist(), objects.labels, objects.crowd, objects.area, strict=True
            ):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image.id,
                        "category_id": self.categories[label].id,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": float(area),
                        "iscrowd": int(crowd),
                    }
                )
        return {
            "info": {"description": f"{self.name} {self.split}"},
            "images": [
                {"id": image.id, "file_name": image.file_name, "width": image.width, "height": image.height}
                for image in self.images
            ],
            "annotations": annotations,
            "categories": [{"id": category.id, "name": category.name} for category in self.categories],
        }
