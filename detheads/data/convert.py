"""Datasets written as folders of any known layout."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from detheads.data.dataset import Dataset, ImageRecord
from detheads.data.layout import Conversion, known_layouts
from detheads.data.pictures import check_picture
from detheads.foundation.atomic import inside
from detheads.foundation.claims import new_folder
from detheads.foundation.errors import UserError
from detheads.foundation.images import read_header
from detheads.foundation.progress import Progress, silent


def convert_dataset(
    splits: Sequence[Dataset],
    target: Path,
    layout: str,
    *,
    link: bool = False,
    on_progress: Progress = silent,
) -> Conversion:
    """Write the splits of a dataset as one folder of another layout; it appears whole or not at all.

    COCO-style and Roboflow folders keep image and category ids. YOLO has neither: class indices are label indices,
    and crowd boxes are left out, because YOLO would train on them.

    Args:
        splits: the splits, each with its own name; all with the same categories.
        target: the folder to write; it must not exist, or be empty.
        layout: the name of a known layout.
        link: hard-link images instead of copying them, where the file system can.

    Raises:
        UserError: when the target is not empty, an image is missing, or names collide.
    """
    with new_folder(target) as partial:
        return write_splits(splits, partial, layout, link=link, on_progress=on_progress)


def write_splits(
    splits: Sequence[Dataset],
    folder: Path,
    layout: str,
    *,
    link: bool = False,
    on_progress: Progress = silent,
) -> Conversion:
    """Write the splits into an empty ``folder``; see :func:`convert_dataset`."""
    if not splits:
        raise UserError("there is no split to convert.")
    if len({dataset.split for dataset in splits}) != len(splits):
        raise UserError("two splits have the same name; each needs its own.")
    if any(dataset.categories != splits[0].categories for dataset in splits):
        names = ", ".join(dataset.split for dataset in splits)
        raise UserError(f"the splits {names} have different classes; convert them one by one.")
    conversion = Conversion()
    total = sum(len(dataset.images) for dataset in splits)
    image_folders = known_layouts()[layout].write(splits, folder, conversion)
    for dataset, image_folder in zip(splits, image_folders, strict=True):
        for image in dataset.images:
            check_picture(image, read_header(image.path))
            _copy(image, image_folder, link)
            conversion.images += 1
            on_progress("copying images", conversion.images, total)
    return conversion


def _copy(image: ImageRecord, folder: Path, link: bool) -> None:
    destination = inside(folder, image.file_name)
    destination.parent.mkdir(parents=True, exist_ok=True)
    if destination.exists():  # the same file under two image ids
        return
    if link:
        try:
            os.link(image.path, destination)
            return
        except OSError:  # another file system, or one without hard links; a missing file is reported below
            pass
    try:
        shutil.copyfile(image.path, destination)
    except FileNotFoundError:
        raise UserError(f"{image.path} does not exist; restore it or remove it from the annotations.") from None
