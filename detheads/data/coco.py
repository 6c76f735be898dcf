"""COCO annotation JSON, of COCO-style folders, Roboflow exports and feature caches."""

import math
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from detheads.data.dataset import Category, Dataset, ImageRecord
from detheads.data.parsed import Parsed, Problems
from detheads.foundation.atomic import inside
from detheads.foundation.errors import UserError
from detheads.foundation.images import read_header
from detheads.foundation.reading import read_json


def read_coco_json(json_path: Path, image_folder: Path, *, name: str | None = None, split: str = "") -> Dataset:
    """Read one COCO annotation file. The images themselves are opened only when the file lacks their sizes.

    Args:
        json_path: the annotation file.
        image_folder: what ``file_name`` is relative to; it need not exist when sizes are given.
        name: the dataset's name; the name of the image folder without it.
        split: the split's name.

    Raises:
        UserError: for unreadable JSON, missing keys, duplicate ids, unknown categories or images, no images, and
            file names that leave ``image_folder``.
    """
    return parse_coco_json(json_path, image_folder).to_dataset(name or image_folder.name, split)


def parse_coco_json(json_path: Path, image_folder: Path, *, roboflow: bool = False) -> Parsed:
    """Parse one COCO annotation file; structural mistakes are listed in ``Parsed.problems``.

    Args:
        json_path: the annotation file.
        image_folder: what ``file_name`` is relative to.
        roboflow: leave out the super-category that Roboflow adds as class 0.

    Raises:
        UserError: when the file is not JSON or not a COCO object at all.
    """
    document = read_json(json_path)
    if not isinstance(document, dict):
        raise UserError(f"{json_path} is not a COCO annotation object; expected images, annotations and categories.")
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), list):
            raise UserError(f"{json_path} has no list {key!r}; a COCO annotation file needs one.")
    problems = Problems()
    categories = _categories(document, json_path, problems)
    if roboflow:
        categories = _without_super_category(categories, document)
    images = _images(document, json_path, image_folder, problems)
    return _annotations(document, json_path, categories, images, problems)


def _entries(
    document: dict[str, Any], key: str, noun: str, required: tuple[str, ...], json_path: Path, problems: Problems
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The well-formed entries of one list with the words that name them; ``id`` is a whole number, used once."""
    seen: set[int] = set()
    for position, entry in enumerate(document[key]):
        if not isinstance(entry, dict):
            title = f"entry {position} of {key!r}"
            problems.add("error", json_path, f"bad {noun}", f"{title} is not an object", bad=_bad(key, title))
            continue
        title = f"{noun} {entry['id']!r}" if "id" in entry else f"entry {position} of {key!r}"
        if missing := [field for field in required if field not in entry]:
            problems.add(
                "error", json_path, f"incomplete {noun}", f"{title} has no {missing[0]!r}", bad=_bad(key, title)
            )
            continue
        if "id" in entry:
            number = _whole(entry["id"])
            if number is None:
                problems.add(
                    "error", json_path, f"bad {noun} id", f"{title}: an id must be a whole number", bad=_bad(key, title)
                )
                continue
            if number in seen:
                sentence = f"two entries of {key!r} have the id {number}; give each its own"
                problems.add("error", json_path, f"duplicate {noun} id", sentence, bad=_bad(key, title))
                continue
            seen.add(number)
        yield title, entry


def _bad(key: str, title: str) -> str | None:
    """Images and annotations can be left out; a class cannot."""
    return None if key == "categories" else title


def _categories(document: dict[str, Any], json_path: Path, problems: Problems) -> tuple[Category, ...]:
    categories = [
        Category(int(entry["id"]), str(entry["name"]))
        for _, entry in _entries(document, "categories", "category", ("id", "name"), json_path, problems)
    ]
    if not document["categories"]:
        problems.add("error", json_path, "no categories", "'categories' is empty; list at least one class")
    return tuple(sorted(categories, key=lambda category: category.id))


def _without_super_category(categories: tuple[Category, ...], document: dict[str, Any]) -> tuple[Category, ...]:
    """Roboflow lists the project as class 0: no object has it, and it is the supercategory of every other class."""
    if len(categories) < 2 or categories[0].id != 0:
        return categories
    parents = {
        entry.get("supercategory")
        for entry in document["categories"]
        if isinstance(entry, dict) and entry.get("id") != 0
    }
    used = any(isinstance(entry, dict) and entry.get("category_id") == 0 for entry in document["annotations"])
    return categories if used or parents != {categories[0].name} else categories[1:]


def _images(
    document: dict[str, Any], json_path: Path, image_folder: Path, problems: Problems
) -> tuple[ImageRecord, ...]:
    records = []
    for title, entry in _entries(document, "images", "image", ("id", "file_name"), json_path, problems):
        try:
            path = inside(image_folder, str(entry["file_name"]), links=True)
            if "width" in entry and "height" in entry:
                width, height = _whole(entry["width"]), _whole(entry["height"])
            else:
                header = read_header(path)
                width, height = header.width, header.height
        except (UserError, ValueError) as error:
            problems.add("error", json_path, "unusable image file", f"{title}: {str(error).rstrip('.')}", bad=title)
            continue
        if width is None or height is None or min(width, height) < 1:
            size = f"{entry['width']!r} x {entry['height']!r}"
            problems.add(
                "error", json_path, "bad image size", f"{title} has the size {size}; expected whole pixels", bad=title
            )
            continue
        records.append(ImageRecord(int(entry["id"]), str(entry["file_name"]), path, width, height))
    return tuple(records)


def _annotations(
    document: dict[str, Any],
    json_path: Path,
    categories: tuple[Category, ...],
    images: tuple[ImageRecord, ...],
    problems: Problems,
) -> Parsed:
    label_of = {category.id: index for index, category in enumerate(categories)}
    index_of = {image.id: index for index, image in enumerate(images)}
    listed = {_whole(entry.get("id")) for entry in document["images"] if isinstance(entry, dict)}
    boxes: list[list[float]] = []
    image_index: list[int] = []
    labels: list[int] = []
    crowd: list[bool] = []
    area: list[float] = []
    required = ("image_id", "category_id", "bbox")
    for title, entry in _entries(document, "annotations", "annotation", required, json_path, problems):
        image_id, category_id = _whole(entry["image_id"]), _whole(entry["category_id"])
        box = _numbers(entry["bbox"])
        if category_id not in label_of:
            sentence = f"{title} has the category id {entry['category_id']!r}, which 'categories' does not list"
            problems.add("error", json_path, "unknown category", sentence, bad=title)
        elif image_id not in index_of:
            # An image that was itself refused is reported once, where it stands.
            if image_id not in listed:
                sentence = f"{title} has the image id {entry['image_id']!r}, which 'images' does not list"
                problems.add("error", json_path, "unknown image", sentence, bad=title)
        elif box is None:
            sentence = f"{title} has the bbox {entry['bbox']!r}; expected four numbers [x, y, width, height]"
            problems.add("error", json_path, "bad bbox", sentence, bad=title)
        else:
            x, y, width, height = box
            boxes.append([x, y, x + width, y + height])
            image_index.append(index_of[image_id])
            labels.append(label_of[category_id])
            crowd.append(bool(entry.get("iscrowd", 0)))
            area.append(_area(entry.get("area")))
    return Parsed(
        json_path,
        categories,
        images,
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(image_index, dtype=np.int64),
        np.array(labels, dtype=np.int64),
        np.array(crowd, dtype=np.bool_),
        np.array(area, dtype=np.float64),
        problems,
    )


def _whole(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or math.isinf(value):
        return None
    return int(value) if value == int(value) else None


def _numbers(value: Any) -> list[float] | None:
    """Four numbers (``null`` counts as not finite, because writers without NaN put it there), or None."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    if any(isinstance(number, bool) or not isinstance(number, int | float | NoneType) for number in value):
        return None
    return [math.nan if number is None else float(number) for number in value]


def _area(value: Any) -> float:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    return float(value) if usable else math.nan
