"""Roboflow exports: ``train``, ``valid`` and ``test``, each with its images and ``_annotations.coco.json``."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from detheads.data.coco import parse_coco_json
from detheads.data.dataset import Dataset
from detheads.data.layout import Conversion, Split
from detheads.foundation.atomic import write_json

ANNOTATIONS = "_annotations.coco.json"

NEEDS = f"SPLIT/{ANNOTATIONS} (Roboflow)"


def find(folder: Path) -> list[Split]:
    """The splits of a Roboflow export."""
    return [
        Split(
            folder.resolve().name,
            path.parent.name,
            path,
            path.parent,
            partial(parse_coco_json, path, path.parent, roboflow=True),
        )
        for path in sorted(folder.glob(f"*/{ANNOTATIONS}"))
    ]


def write(splits: Sequence[Dataset], folder: Path, conversion: Conversion) -> list[Path]:
    """Write the annotations with their image and category ids; ``val`` is called ``valid``."""
    folders = [folder / ("valid" if dataset.split == "val" else dataset.split) for dataset in splits]
    for dataset, images in zip(splits, folders, strict=True):
        write_json(images / ANNOTATIONS, dataset.coco_json())
        conversion.boxes += sum(len(objects.boxes) for objects in dataset.objects)
    return folders
