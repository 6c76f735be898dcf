"""COCO-style folders: ``annotations/instances_SPLIT.json`` and the images in ``SPLIT/`` or ``images/SPLIT/``."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from detheads.data.coco import parse_coco_json
from detheads.data.dataset import Dataset
from detheads.data.layout import Conversion, Split
from detheads.foundation.atomic import write_json

NEEDS = "annotations/instances_SPLIT.json (COCO)"


def find(folder: Path) -> list[Split]:
    """The splits of a COCO-style folder."""
    splits = []
    for path in sorted((folder / "annotations").glob("instances_*.json")):
        name = path.stem.removeprefix("instances_")
        nested = folder / "images" / name
        images = nested if nested.is_dir() else folder / name
        splits.append(Split(folder.resolve().name, name, path, images, partial(parse_coco_json, path, images)))
    return splits


def write(splits: Sequence[Dataset], folder: Path, conversion: Conversion) -> list[Path]:
    """Write the annotations with their image and category ids."""
    for dataset in splits:
        write_json(folder / "annotations" / f"instances_{dataset.split}.json", dataset.coco_json())
        conversion.boxes += sum(len(objects.boxes) for objects in dataset.objects)
    return [folder / dataset.split for dataset in splits]
