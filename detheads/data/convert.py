"""Datasets written as COCO-style, Roboflow or YOLO folders."""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detheads.data.dataset import Dataset, ImageRecord
from detheads.data.layout import ROBOFLOW_FILE, LayoutName
from detheads.foundation.atomic import inside, write_json, write_text
from detheads.foundation.claims import new_folder
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, silent


@dataclass
class Conversion:
    """What was written."""

    images: int = 0
    boxes: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Boxes that the target layout cannot hold: reason -> count."""


def convert_dataset(
    splits: Sequence[Dataset],
    target: Path,
    layout: LayoutName,
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
        layout: ``coco``, ``roboflow`` or ``yolo``.
        link: hard-link images instead of copying them, where the file system can.

    Raises:
        UserError: when the target is not empty, an image is missing, or names collide.
    """
    with new_folder(target) as partial:
        return write_splits(splits, partial, layout, link=link, on_progress=on_progress)


def write_splits(
    splits: Sequence[Dataset],
    folder: Path,
    layout: LayoutName,
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
    for dataset in splits:
        image_folder = _write_annotations(dataset, folder, layout, conversion)
        for image in dataset.images:
            _copy(image, image_folder, link)
            conversion.images += 1
            on_progress("copying images", conversion.images, total)
    if layout == "yolo":
        _write_data_yaml(splits, folder / "data.yaml")
    return conversion


def _write_annotations(dataset: Dataset, folder: Path, layout: LayoutName, conversion: Conversion) -> Path:
    """Write one split's annotations and return the folder for its images."""
    if layout == "yolo":
        _write_labels(dataset, folder / "labels" / dataset.split, conversion)
        return folder / "images" / dataset.split
    conversion.boxes += sum(len(objects.boxes) for objects in dataset.objects)
    if layout == "roboflow":
        name = "valid" if dataset.split == "val" else dataset.split
        write_json(folder / name / ROBOFLOW_FILE, dataset.coco_json())
        return folder / name
    write_json(folder / "annotations" / f"instances_{dataset.split}.json", dataset.coco_json())
    return folder / dataset.split


def _write_labels(dataset: Dataset, folder: Path, conversion: Conversion) -> None:
    folder.mkdir(parents=True)
    written: dict[Path, str] = {}
    for image, objects in zip(dataset.images, dataset.objects, strict=True):
        path = inside(folder, image.file_name).with_suffix(".txt")
        if path in written:
            raise UserError(
                f"{image.path} and {written[path]} would share the YOLO label file {path.name}; rename one of them."
            )
        written[path] = image.file_name
        conversion.left_out["crowd"] += int(objects.crowd.sum())
        lines = []
        for (x1, y1, x2, y2), label in zip(
            objects.boxes[~objects.crowd].tolist(), objects.labels[~objects.crowd].tolist(), strict=True
        ):
            center = (x1 + x2) / 2 / image.width, (y1 + y2) / 2 / image.height
            lines.append(
                f"{label} {center[0]!r} {center[1]!r} {(x2 - x1) / image.width!r} {(y2 - y1) / image.height!r}\n"
            )
        conversion.boxes += len(lines)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")


def _write_data_yaml(splits: Sequence[Dataset], path: Path) -> None:
    import yaml

    content: dict[str, object] = {"path": "."}
    content |= {dataset.split: f"images/{dataset.split}" for dataset in splits}
    content["names"] = dict(enumerate(splits[0].class_names))
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


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
