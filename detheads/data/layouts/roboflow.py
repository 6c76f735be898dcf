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
    """The splits of a Roboflow export; one without splits has its images beside the file and is called ``all``."""
    found = {path.parent.name: path for path in sorted(folder.glob(f"*/{ANNOTATIONS}"))}
    alone = folder if folder.is_file() else folder / ANNOTATIONS
    if not found and alone.name == ANNOTATIONS and alone.is_file():
        found = {"all": alone}
    return [
        Split(
            (folder.parent if folder.is_file() else folder).resolve().name,
            name,
            path,
            path.parent,
            partial(
                parse_coco_json,
                path,
                [path.parent, path.parent / "images"],
                siblings=[other for other in found.values() if other != path],
            ),
        )
        for name, path in found.items()
    ]


def write(splits: Sequence[Dataset], folder: Path, conversion: Conversion) -> list[Path]:
    """Write the annotations with their image and category ids; ``val`` is called ``valid``."""
    folders = [folder / ("valid" if dataset.split == "val" else dataset.split) for dataset in splits]
    for dataset, images in zip(splits, folders, strict=True):
        write_json(images / ANNOTATIONS, dataset.coco_json())
        conversion.boxes += sum(len(objects.boxes) for objects in dataset.objects)
    return folders
