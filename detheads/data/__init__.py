"""Datasets: COCO-style folders, Roboflow exports and YOLO folders, read into one type."""

from pathlib import Path

from detheads.data.coco import read_coco_json
from detheads.data.dataset import Category, Dataset, ImageRecord, Objects
from detheads.data.layout import find_split, find_splits

__all__ = ["Category", "Dataset", "ImageRecord", "Objects", "list_splits", "read_coco_json", "read_dataset"]


def read_dataset(path: Path, split: str | None = None) -> Dataset:
    """Read one split of a dataset folder of any known layout.

    Args:
        path: the dataset's folder.
        split: the split's name ('val' and 'valid' mean the same); None for the only one, else the training split.

    Raises:
        UserError: when the folder, the split or its annotations are unusable; the message names the file.
    """
    found = find_split(path, split)
    return found.parse().to_dataset(found.dataset, found.name)


def list_splits(path: Path) -> list[str]:
    """Names of the splits of a dataset folder.

    Raises:
        UserError: when the folder is missing or has no known layout.
    """
    return list(find_splits(path))
