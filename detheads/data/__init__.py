"""Datasets: COCO-style folders, Roboflow exports and YOLO folders, read into one type."""

from pathlib import Path

from detheads.data.coco import read_coco_json
from detheads.data.dataset import Category, Dataset, ImageRecord, Objects
from detheads.data.layout import find_split, find_splits
from detheads.data.misreadings import Stated, with_doubts
from detheads.data.pictures import check_picture, load_picture

__all__ = [
    "Category",
    "Dataset",
    "ImageRecord",
    "Objects",
    "check_picture",
    "list_splits",
    "load_picture",
    "read_coco_json",
    "read_dataset",
]


def read_dataset(path: str | Path, split: str | None = None, *, skip_bad: bool = False) -> Dataset:
    """Read one split of a dataset of any known layout.

    Args:
        path: the dataset's folder.
        split: the split's name ('val' and 'valid' mean the same); None for the only one, else the training split.
        skip_bad: leave out images and annotations that cannot be used and list them in ``Dataset.skipped``, instead
            of refusing the first of them.

    Raises:
        UserError: when the folder, the split or its annotations are unusable; the message names the file.
    """
    found = find_split(Path(path), split)
    parsed = found.parse()
    dataset = parsed.to_dataset(found.dataset, found.name, skip_bad=skip_bad)
    return with_doubts(dataset, Stated(found.name, parsed, found.convention), found.annotations)


def list_splits(path: str | Path) -> list[str]:
    """Names of the splits of a dataset folder.

    Raises:
        UserError: when the folder is missing or has no known layout.
    """
    return list(find_splits(Path(path)))
