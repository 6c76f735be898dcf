"""YOLO folders: ``data.yaml`` with the class names, one text file of normalised boxes beside each image."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from detheads.data.dataset import Category, Dataset, ImageRecord
from detheads.data.layout import Conversion, Split
from detheads.data.parsed import Parsed, Problems
from detheads.foundation.atomic import inside, write_text
from detheads.foundation.errors import UserError
from detheads.foundation.images import list_images, read_header

NEEDS = "data.yaml with images/SPLIT (YOLO)"


def find(folder: Path) -> list[Split]:
    """The splits of a YOLO folder: ``images/SPLIT`` and ``labels/SPLIT``, or ``SPLIT/images`` and ``SPLIT/labels``."""
    configurations = [path for path in (folder / "data.yaml", folder / "data.yml") if path.is_file()]
    if not configurations:
        return []
    found = {path.name: (path, folder / "labels" / path.name) for path in _folders(folder / "images")}
    found |= {path.name: (path / "images", path / "labels") for path in _folders(folder) if (path / "images").is_dir()}
    return [
        Split(
            folder.resolve().name,
            name,
            configurations[0],
            images,
            partial(parse_yolo, configurations[0], images, labels),
            labels,
        )
        for name, (images, labels) in sorted(found.items())
    ]


def write(splits: Sequence[Dataset], folder: Path, conversion: Conversion) -> list[Path]:
    """Write label files and ``data.yaml``; class indices are label indices, and crowd boxes are left out.

    Raises:
        UserError: when two images would share a label file.
    """
    for dataset in splits:
        _write_labels(dataset, folder / "labels" / dataset.split, conversion)
    _write_data_yaml(splits, folder / "data.yaml")
    return [folder / "images" / dataset.split for dataset in splits]


def parse_yolo(data_yaml: Path, image_folder: Path, label_folder: Path) -> Parsed:
    """Parse one split of a YOLO folder; an image without a label file is an image without objects.

    Image ids are 1, 2, ... in the order of names; category ids are YOLO's class indices. A line is
    ``class cx cy w h`` or ``class x1 y1 x2 y2 x3 y3 ...`` (a polygon, of which the bounding box is taken), all
    relative to the image's size as displayed.

    Raises:
        UserError: when ``data.yaml`` has no usable names.
    """
    problems = Problems()
    categories = read_names(data_yaml)
    label_of = {category.id: index for index, category in enumerate(categories)}
    images: list[ImageRecord] = []
    boxes: list[tuple[float, float, float, float]] = []
    image_index: list[int] = []
    labels: list[int] = []
    for number, name in enumerate(list_images(image_folder), start=1):
        path = image_folder / name
        try:
            header = read_header(path)
        except UserError as error:
            sentence = str(error).removeprefix(str(path)).strip().rstrip(".")
            problems.add("error", path, "unreadable image", f"the file {sentence}", bad=str(path))
            continue
        images.append(ImageRecord(number, name, path, header.width, header.height))
        label_file = (label_folder / name).with_suffix(".txt")
        for label, (x1, y1, x2, y2) in _read_label_file(label_file, label_of, problems):
            boxes.append((x1 * header.width, y1 * header.height, x2 * header.width, y2 * header.height))
            image_index.append(len(images) - 1)
            labels.append(label)
    return Parsed(
        image_folder,
        categories,
        tuple(images),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(image_index, dtype=np.int64),
        np.array(labels, dtype=np.int64),
        np.zeros(len(boxes), dtype=np.bool_),
        np.full(len(boxes), np.nan),
        problems,
    )


def read_names(data_yaml: Path) -> tuple[Category, ...]:
    """The classes of a ``data.yaml``: ``names`` is a list, or a mapping from class index to name.

    Raises:
        UserError: when the file is not YAML or its names are unusable.
    """
    import yaml

    try:
        # The base loader keeps every scalar a string: a class called 'no' stays 'no'.
        content: Any = yaml.load(data_yaml.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{data_yaml} is not readable YAML ({reason}); repair it.") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = {str(index): name for index, name in enumerate(names)}
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{data_yaml} has no usable 'names'; list the class names in the order of their indices.")
    if bad := [index for index in names if not str(index).isdecimal()]:
        raise UserError(f"{data_yaml} names a class {bad[0]!r}; class indices are whole numbers from 0.")
    count = content.get("nc")
    if count is not None and count != str(len(names)):
        raise UserError(f"{data_yaml} says nc: {count} but names {len(names)} classes; correct one of them.")
    categories = (Category(int(index), name) for index, name in names.items())
    return tuple(sorted(categories, key=lambda category: category.id))


def _read_label_file(
    label_file: Path, label_of: dict[int, int], problems: Problems
) -> list[tuple[int, tuple[float, float, float, float]]]:
    """Label index and relative xyxy box of each good line."""
    try:
        lines = label_file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except UnicodeDecodeError:
        problems.add(
            "error",
            label_file,
            "unreadable labels",
            "this is not a text file of boxes; replace it",
            bad=str(label_file),
        )
        return []
    found = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        try:
            category_id, values = int(words[0]), [float(word) for word in words[1:]]
        except ValueError:
            category_id, values = -1, []
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            sentence = f"line {number} is {line.strip()[:60]!r}; expected 'class cx cy w h' (or a polygon)"
            problems.add("error", label_file, "bad label line", sentence, bad=f"{label_file} line {number}")
        elif category_id not in label_of:
            sentence = f"line {number} has the class {category_id}, which data.yaml does not name"
            problems.add("error", label_file, "unknown category", sentence, bad=f"{label_file} line {number}")
        else:
            found.append((label_of[category_id], _to_xyxy(values)))
    return found


def _to_xyxy(values: list[float]) -> tuple[float, float, float, float]:
    if len(values) == 4:
        x, y, width, height = values
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


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
