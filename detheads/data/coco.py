"""COCO annotation JSON, of COCO-style folders, Roboflow exports and feature caches.

What a file itself can answer is repaired with a remark: numbers as text, sizes that only the picture's header knows, a
box that only the segmentation has, names that are nearly those of the files. The rest is an error of one entry.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from detheads.data.coco_values import box_of, corners, flag, real, whole
from detheads.data.dataset import Category, Dataset, ImageRecord
from detheads.data.file_names import ImageFiles, folder_of
from detheads.data.parsed import Parsed, Problems
from detheads.foundation.atomic import inside
from detheads.foundation.errors import UserError, suggest
from detheads.foundation.images import read_header
from detheads.foundation.reading import read_json

Key = int | str
"""What entries are referred to by: a number, however it is spelled, or a text that is none."""


def read_coco_json(
    json_path: str | Path, image_folder: str | Path, *, name: str | None = None, split: str = ""
) -> Dataset:
    """Read one COCO annotation file. The images themselves are opened only when the file lacks their sizes.

    Args:
        json_path: the annotation file.
        image_folder: what ``file_name`` is relative to; it need not exist when sizes are given.
        name: the dataset's name; the name of the image folder without it.
        split: the split's name.

    Raises:
        UserError: for unreadable JSON, missing keys, ambiguous ids, unknown categories or images, no images, and file
            names that leave ``image_folder``.
    """
    json_path, image_folder = Path(json_path), Path(image_folder)
    reader = _Reader(json_path, _document(json_path))
    return reader.parse(image_folder, None).to_dataset(name or image_folder.name, split)


def parse_coco_json(
    json_path: Path, image_folders: Sequence[Path], *, siblings: Sequence[Path] | None = None
) -> Parsed:
    """Parse one COCO annotation file; mistakes are listed in ``Parsed.problems``.

    Args:
        json_path: the annotation file.
        image_folders: folders that ``file_name`` may be relative to, the likeliest first.
        siblings: of a Roboflow export, the annotation files of its other splits: the super-category that Roboflow adds
            as class 0 is left out, unless an object of any split has that class.

    Raises:
        UserError: when the file is not JSON or not a COCO object at all, or no image folder exists.
    """
    reader = _Reader(json_path, _document(json_path))
    names = [name for name in (_file_name(entry) for entry in reader.document["images"]) if name]
    files = folder_of(names, image_folders)
    if siblings is not None:
        reader.drop_super_category(siblings)
    return reader.parse(files.folder, files)


def _document(json_path: Path) -> dict[str, Any]:
    document = read_json(json_path)
    if not isinstance(document, dict):
        what = "a list, perhaps of detections," if isinstance(document, list) else "no object"
        raise UserError(
            f"{json_path} is {what} and not a COCO annotation object; expected images, annotations and categories."
        )
    for key in ("images", "categories"):
        if not isinstance(document.get(key), list):
            near = suggest(key, document)
            raise UserError(f"{json_path} has no list {key!r}; a COCO annotation file needs one.{near}")
    if not isinstance(document.get("annotations"), list | NoneType):
        raise UserError(f"{json_path} has no list 'annotations'; a COCO annotation file needs one.")
    return document


def _file_name(entry: Any) -> str | None:
    name = entry.get("file_name") if isinstance(entry, dict) else None
    return name if isinstance(name, str) and name.strip() else None


def _key(value: Any) -> Key | None:
    number = whole(value)
    return number if number is not None else value if isinstance(value, str) and value else None


@dataclass
class _Objects:
    """Columns of what becomes ``Parsed``."""

    boxes: list[list[float]] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    area: list[float] = field(default_factory=list)


class _Reader:
    """One annotation file on its way to ``Parsed``."""

    def __init__(self, json_path: Path, document: dict[str, Any]) -> None:
        self.path = json_path
        self.document = document
        self.problems = Problems()
        self.super_category = False
        self.categories: dict[Key, Category] = {}
        self.image_index: dict[Key, int] = {}
        self.unusable_images: set[Key] = set()
        self.merged: dict[int, dict[tuple[float, ...], Key]] = {}
        """Of each image with several ids, by index: the boxes read so far, and under which id."""

    def parse(self, folder: Path, files: ImageFiles | None) -> Parsed:
        """Images below ``folder``; with ``files`` they are looked up there, without they are taken as named."""
        self._read_categories()
        images = self._read_images(folder, files)
        categories = self._ordered()
        objects = self._read_annotations({key: categories.index(self.categories[key]) for key in self.categories})
        listed = {image.file_name for image in images} | {_file_name(entry) for entry in self.document["images"]}
        return Parsed(
            self.path,
            tuple(categories),
            tuple(images),
            np.array(objects.boxes, dtype=np.float64).reshape(-1, 4),
            np.array(objects.images, dtype=np.int64),
            np.array(objects.labels, dtype=np.int64),
            np.array(objects.crowd, dtype=np.bool_),
            np.array(objects.area, dtype=np.float64),
            self.problems,
            unlisted=tuple(name for name in files.images() if name not in listed) if files is not None else (),
        )

    def drop_super_category(self, siblings: Sequence[Path]) -> None:
        """Leave out class 0 of a Roboflow export where it is the project's name and no object of any split has it."""
        parents = {
            entry.get("supercategory"): whole(entry.get("id"))
            for entry in self.document["categories"]
            if isinstance(entry, dict) and whole(entry.get("id")) != 0
        }
        zero = [entry for entry in self._dicts("categories") if whole(entry.get("id")) == 0]
        if len(zero) != 1 or parents.keys() != {zero[0].get("name")}:
            return
        documents = (self.document, *(_document(path) for path in siblings))
        self.super_category = not any(
            isinstance(entry, dict) and whole(entry.get("category_id")) == 0
            for document in documents
            for entry in document.get("annotations") or ()
        )

    def _dicts(self, key: str) -> Iterator[dict[str, Any]]:
        return (entry for entry in self.document.get(key) or () if isinstance(entry, dict))

    def _note(self, kind: str, sentence: str) -> None:
        self.problems.add("note", self.path, kind, sentence)

    def _error(self, kind: str, sentence: str, bad: str | None) -> None:
        self.problems.add("error", self.path, kind, sentence, bad=bad)

    def _entries(self, key: str, noun: str, required: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The entries of one list that are objects and have what is required, with the words that name them."""
        for position, entry in enumerate(self.document.get(key) or ()):
            title = f"entry {position} of {key!r}"
            if isinstance(entry, dict) and "id" in entry:
                title = f"{noun} {entry['id']!r}"[:80]
            bad = None if key == "categories" else title
            if not isinstance(entry, dict):
                self._error(f"bad {noun}", f"{title} is not an object", bad)
            elif missing := [name for name in required if entry.get(name) is None]:
                self._error(f"incomplete {noun}", f"{title} has no {missing[0]!r}", bad)
            else:
                yield title, entry

    def _read_categories(self) -> None:
        if not self.document["categories"]:
            self._error("no categories", "'categories' is empty; list at least one class", None)
        names: dict[Key, str] = {}
        for title, entry in self._entries("categories", "category", ("id", "name")):
            key, name = _key(entry["id"]), entry["name"]
            if key is None:
                self._error("bad category id", f"{title}: an id must be a whole number or a text", None)
            elif not isinstance(name, str | int | float):
                self._error("bad category name", f"{title}: a name must be a text", None)
            elif names.setdefault(key, str(name)) != str(name):
                sentence = f"the category id {key!r} is both {names[key]!r} and {str(name)!r}; give each its own"
                self._error("duplicate category id", sentence, None)
            self._note_text("category", title, entry["id"], key)
        if self.super_category:
            names.pop(0, None)
        numbers = self._numbered("categories", list(names))
        self.categories = {key: Category(numbers[key], name) for key, name in names.items()}

    def _ordered(self) -> list[Category]:
        return sorted(self.categories.values(), key=lambda category: category.id)

    def _numbered(self, noun: str, keys: Sequence[Key]) -> dict[Key, int]:
        """Each key's number: itself, or the next free one from 1 where it is a text."""
        taken = {key for key in keys if isinstance(key, int)}
        numbers: dict[Key, int] = {key: key for key in taken}
        number = 0
        for key in keys:
            if isinstance(key, str):
                self._note(f"ids of {noun}", f"ids of {noun} are text ({key!r}); those are numbered in their order")
                number += 1
                while number in taken:
                    number += 1
                numbers[key] = number
        return numbers

    def _note_text(self, noun: str, title: str, value: Any, key: Key | None) -> None:
        if isinstance(value, str) and isinstance(key, int):
            self._note(f"{noun} id as text", f"{title} has an id that is text; it is read as a number")

    def _read_images(self, folder: Path, files: ImageFiles | None) -> list[ImageRecord]:
        entries: dict[Key, tuple[str, dict[str, Any], str]] = {}
        for title, entry in self._entries("images", "image", ("id", "file_name")):
            key, name = _key(entry["id"]), _file_name(entry)
            if key is None or name is None:
                what = "an id must be a whole number or a text" if key is None else "a file name must be a text"
                self._error("bad image", f"{title}: {what}", title)
                continue
            self._note_text("image", title, entry["id"], key)
            if key in self.unusable_images:
                continue
            if key in entries and entries[key][2] != name:
                sentence = f"the image id {key!r} is both {entries.pop(key)[2]!r} and {name!r}; give each its own"
                self._error("duplicate image id", sentence, title)
                self.unusable_images.add(key)
            elif key in entries:
                self._note("image listed twice", f"{title} is listed twice; it is read once")
            else:
                entries[key] = (title, entry, name)
        found = self._located(folder, files, {key: name for key, (_, _, name) in entries.items()})
        numbers = self._numbered("images", list(found))
        return self._records(folder, {key: (found[key], *entries[key][:2], numbers[key]) for key in found})

    def _located(self, folder: Path, files: ImageFiles | None, names: dict[Key, str]) -> dict[Key, str]:
        """The file of each image, relative to ``folder``. Two names that lead to one file are a mistake."""
        found: dict[Key, str] = {}
        named: dict[str, str] = {}  # file -> how it is called
        exact = {name for name in names.values() if files is not None and name in files.names}
        for key, name in names.items():
            title = f"image {key!r}"
            try:
                if files is None:
                    inside(folder, name, links=True)
                file = name if files is None else files.find(name, exact)
                if file != name and (file in exact or named.setdefault(file, name) != name):
                    other = file if file in exact else named[file]
                    raise UserError(f"{name!r} does not exist in {folder}, and {file!r} is the image {other!r}.")
            except (UserError, ValueError) as error:
                self._error("unusable image file", f"{title}: {str(error).rstrip('.')}", title)
                self.unusable_images.add(key)
                continue
            if file != name:
                self._note("file under another name", f"the file of image {key!r}, {name!r}, was found as {file!r}")
            found[key] = file
        return found

    def _records(self, folder: Path, found: dict[Key, tuple[str, str, dict[str, Any], int]]) -> list[ImageRecord]:
        records: list[ImageRecord] = []
        index_of: dict[str, int] = {}
        for key, (file, title, entry, number) in found.items():
            if file in index_of:
                first = records[index_of[file]].id
                sentence = f"{file} is {title} and image {first}; their objects are put together"
                self.problems.add("warning", self.path, "image listed twice", sentence)
                self.image_index[key] = index_of[file]
                self.merged[index_of[file]] = {}
                continue
            width, height = whole(entry.get("width")), whole(entry.get("height"))
            if width is None or height is None or min(width, height) < 1:
                try:
                    header = read_header(folder / file)
                except UserError as error:
                    size = f"{entry.get('width')!r} x {entry.get('height')!r}"
                    sentence = f"{title} has the size {size}, and {str(error).rstrip('.')}"
                    self._error("unusable image file", sentence, title)
                    self.unusable_images.add(key)
                    continue
                width, height = header.width, header.height
                self._note("size from the picture", f"{title} has no usable size; the size of its file is taken")
            self.image_index[key] = index_of[file] = len(records)
            records.append(ImageRecord(number, file, folder / file, width, height))
        return records

    def _read_annotations(self, labels: dict[Key, int]) -> _Objects:
        if self.document.get("annotations") is None:
            sentence = "there is no list 'annotations'; all images are read as images without objects"
            self.problems.add("warning", self.path, "no annotations", sentence)
        objects = _Objects()
        seen: dict[Key, dict[str, Any]] = {}
        for title, entry in self._entries("annotations", "annotation", ("image_id", "category_id")):
            image_key, category_key = _key(entry["image_id"]), _key(entry["category_id"])
            if (key := _key(entry.get("id"))) is not None and seen.setdefault(key, entry) is not entry:
                if seen[key] == entry:
                    self._note("annotation listed twice", f"{title} is listed twice, word for word; it is read once")
                    continue
                self._note("duplicate annotation id", f"{title} is the id of two annotations; both are read")
            if image_key in self.unusable_images:
                continue  # the image was reported where it stands
            if category_key is None or category_key not in labels:
                self._unknown_category(title, entry["category_id"])
            elif image_key is None or image_key not in self.image_index:
                sentence = f"{title} has the image id {entry['image_id']!r}, which 'images' does not list"
                self._error("unknown image", sentence, title)
            else:
                image, label = self.image_index[image_key], labels[category_key]
                self._read_object(title, entry, objects, image, label, image_key)
        return objects

    def _unknown_category(self, title: str, value: Any) -> None:
        known = [category.id for category in self._ordered()]
        names = f"{known[0]} to {known[-1]}" if len(known) > 3 else ", ".join(map(str, known))
        sentence = f"{title} has the category id {value!r}, which 'categories' does not list (it has {names})"
        self._error("unknown category", sentence, title)
        if (number := whole(value)) is not None:
            self.problems.unknown_classes.add(number)

    def _read_object(
        self, title: str, entry: dict[str, Any], objects: _Objects, image: int, label: int, image_key: Key
    ) -> None:
        bbox = entry.get("bbox")
        box = corners(bbox)
        around = None
        if bbox in (None, "", []) or (box is not None and box[0] == box[2] and box[1] == box[3]):
            around = box_of(entry.get("segmentation"))
        if around is not None:
            self._note("box of the segmentation", f"{title} has no box of its own; that of its segmentation is taken")
            box = around
        crowd, ignore = flag(entry.get("iscrowd")), flag(entry.get("ignore"))
        if box is None:
            what = "no 'bbox'" if bbox is None else f"the bbox {str(bbox)[:80]}; expected four numbers"
            self._error("bad bbox", f"{title} has {what} [x, y, width, height]", title)
        elif crowd is None or ignore is None:
            name = "iscrowd" if crowd is None else "ignore"
            self._error(f"bad {name}", f"{title} has {name} {str(entry[name])[:40]!r}; expected 0 or 1", title)
        elif image in self.merged and self.merged[image].setdefault((label, *box), image_key) != image_key:
            pass  # the same object under another id of its image
        else:
            if isinstance(bbox, list) and str in map(type, bbox):
                self._note("bbox as text", f"{title} has a bbox of texts; they are read as numbers")
            if entry.get("proposal") is True:
                self._note("proposal", f"{title} is a model's proposal that nobody has corrected")
            if ignore:
                self._note("ignored object", f"{title} has the flag 'ignore'; it counts as a crowd")
            area = real(entry.get("area"))
            if "area" in entry and (area is None or not area > 0):
                self._note("no area", f"{title} has the area {str(entry['area'])[:40]}; that of its box is taken")
            objects.boxes.append(box)
            objects.images.append(image)
            objects.labels.append(label)
            objects.crowd.append(crowd or ignore)
            objects.area.append(float(area) if area is not None and area > 0 else np.nan)
