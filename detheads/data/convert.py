"""Datasets written as folders of any known layout."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from detheads.data.classes import with_same_classes
from detheads.data.dataset import Dataset, ImageRecord
from detheads.data.layout import Conversion, known_layouts
from detheads.data.pictures import check_picture
from detheads.foundation.atomic import inside, try_output
from detheads.foundation.claims import new_folder
from detheads.foundation.errors import UserError
from detheads.foundation.images import read_header
from detheads.foundation.progress import Progress, silent


def convert_dataset(
    splits: Sequence[Dataset],
    target: str | Path,
    layout: str,
    *,
    link: bool = False,
    skip_bad: bool = False,
    on_progress: Progress = silent,
) -> Conversion:
    """Write the splits of a dataset as one folder of another layout; it appears whole or not at all.

    COCO-style and Roboflow folders keep image and category ids. YOLO has neither: class indices are label indices,
    and crowd boxes are left out, because YOLO would train on them.

    Args:
        splits: the splits, each with its own name; all get the classes of :func:`with_same_classes`.
        target: the folder to write; it must not exist, or be empty.
        layout: the name of a known layout.
        link: hard-link images instead of copying them, where the file system can.
        skip_bad: leave out images that are missing, unreadable or not the annotated ones (``Conversion.skipped``).

    Raises:
        UserError: when the target is not empty, an image is bad, or names collide.
    """
    if not splits:
        raise UserError("there is no split to convert.")
    with new_folder(Path(target)) as partial:
        good = [_usable(dataset, skip_bad, on_progress) for dataset in with_same_classes(splits)]
        conversion = write_splits(good, partial, layout, link=link, on_progress=on_progress)
        for before, after in zip(splits, good, strict=True):
            conversion.skipped |= {name: why for name, why in after.skipped.items() if name not in before.skipped}
        return conversion


def write_splits(
    splits: Sequence[Dataset],
    folder: Path,
    layout: str,
    *,
    link: bool = False,
    on_progress: Progress = silent,
) -> Conversion:
    """Write checked splits of the same classes into an empty ``folder``; see :func:`convert_dataset`."""
    if len({dataset.split for dataset in splits}) != len(splits):
        raise UserError("two splits have the same name; each needs its own.")
    if any(dataset.categories != splits[0].categories for dataset in splits):
        raise ValueError("the splits have different classes")
    if not link:
        try_output(folder, folder=True, needs=sum(_bytes(image) for dataset in splits for image in dataset.images))
    conversion = Conversion()
    total = sum(len(dataset.images) for dataset in splits)
    image_folders = known_layouts()[layout].write(splits, folder, conversion)
    for dataset, image_folder in zip(splits, image_folders, strict=True):
        for image in dataset.images:
            _copy(image, image_folder, link)
            conversion.images += 1
            on_progress("copying images", conversion.images, total)
    return conversion


def _usable(dataset: Dataset, skip_bad: bool, on_progress: Progress) -> Dataset:
    """The dataset without the images whose headers are unreadable or do not fit; those are raised as a rule."""
    bad: dict[int, str] = {}
    for index, image in enumerate(dataset.images):
        try:
            check_picture(image, read_header(image.path))
        except UserError as error:
            if not skip_bad:
                raise
            bad[index] = str(error).removeprefix(str(image.path)).strip()
        on_progress(f"checking images of {dataset.split}", index + 1, len(dataset.images))
    return dataset.without(bad)


def _bytes(image: ImageRecord) -> int:
    return image.path.stat().st_size if image.path.exists() else 0


def _copy(image: ImageRecord, folder: Path, link: bool) -> None:
    destination = inside(folder, image.file_name)
    destination.parent.mkdir(parents=True, exist_ok=True)
    if destination.exists():  # the same file under two image ids
        return
    if link:
        try:
            os.link(image.path.resolve(), destination)  # of the file itself where the path is a link
            return
        except OSError:  # another file system, or one without hard links; a missing file is reported below
            pass
    shutil.copyfile(image.path, destination)
