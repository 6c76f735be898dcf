"""YOLO labels: a text file for each picture, with one row for each object."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from detheads.data.dataset import ImageRecord
from detheads.data.parsed import Parsed, Problems
from detheads.data.yolo_config import LISTS, YoloConfig
from detheads.data.yolo_places import Places, label_file, pictures_of
from detheads.foundation.errors import MissingFileError, UserError
from detheads.foundation.images import IMAGE_SUFFIXES, OTHER_SUFFIXES, read_header
from detheads.foundation.reading import read_bytes, read_text

Box = tuple[float, float, float, float]

_FEW = 3
"""Polygons that have to look like keypoints before it is said."""
_ROUNDING = 0.01
"""Relative coordinates may stick out by this much before it is said: tools round them."""
_ROW = re.compile(r"\s*\d+([ \t,]+[\d.]+){4}")
"""The beginning of a label file."""


def parse_yolo(config: YoloConfig, places: Places) -> Parsed:
    """Parse one split; a picture without a label file is a picture without objects.

    Image ids are 1, 2, ... in the order of names; category ids are YOLO's class indices. A row is
    ``class cx cy w h``, ``class x1 y1 x2 y2 x3 y3 ...`` (a polygon or turned box, of which the bounding box is taken),
    or, where ``kpt_shape`` says so, ``class cx cy w h`` and keypoints. All are relative to the picture's size as
    displayed. Numbers may be separated by blanks, tabs, commas or semicolons.

    Raises:
        UserError: when a place of the split is missing, or none of its label files belongs to a picture.
    """
    problems = Problems()
    for sentence in (*config.remarks, *places.remarks):
        problems.add("note", config.file, sentence, sentence)
    pictures = pictures_of(places, config, problems)
    root = config.here
    labels = {picture: label_file(picture, root) for picture in pictures.paths}
    _check_labels(labels, places.split, problems)
    rows = _Rows(config, problems)
    images: list[ImageRecord] = []
    objects: list[tuple[int, int, Box]] = []
    for number, (picture, file) in enumerate(labels.items(), start=1):
        try:
            header = read_header(picture)
            found = rows.read(file)
        except UserError as error:
            damaged = file if str(error).startswith(str(file)) else picture
            sentence = str(error).removeprefix(str(damaged)).strip().rstrip(".")
            kind = "unreadable labels" if damaged == file else "unreadable image"
            problems.add("error", damaged, kind, f"the file {sentence}", bad=str(picture))
            continue
        name = picture.relative_to(pictures.base).as_posix()
        images.append(ImageRecord(number, name, picture, header.width, header.height))
        for label, (x1, y1, x2, y2) in found:
            box = (x1 * header.width, y1 * header.height, x2 * header.width, y2 * header.height)
            objects.append((len(images) - 1, label, box))
    rows.judge()
    return Parsed(
        pictures.base,
        config.categories,
        tuple(images),
        np.array([box for _, _, box in objects], dtype=np.float64).reshape(-1, 4),
        np.array([image for image, _, _ in objects], dtype=np.int64),
        np.array([label for _, label, _ in objects], dtype=np.int64),
        np.zeros(len(objects), dtype=np.bool_),
        np.full(len(objects), np.nan),
        problems,
    )


def _check_labels(labels: dict[Path, Path], split: str, problems: Problems) -> None:
    """Label files without a picture, pictures that share one, and splits in which nothing fits.

    Raises:
        UserError: when no picture has labels and that cannot be meant.
    """
    for file, count in Counter(labels.values()).items():
        if count > 1:
            first, second, *_ = sorted(picture.name for picture, label in labels.items() if label == file)
            sentence = f"it holds the labels of {first} and of {second}; rename one of them if their objects differ"
            problems.add("warning", file, "shared label file", sentence)
    folders: dict[Path, set[Path]] = defaultdict(set)
    for picture, label in labels.items():
        folders[label.parent].add(picture.parent)
    unmatched = [(path, why) for folder in sorted(folders) for path, why in _unmatched(folder, folders[folder])]
    if labels and not any(label.exists() for label in labels.values()):
        picture, label = next(iter(labels.items()))
        if unmatched:
            path = unmatched[0][0]
            raise UserError(
                f"{path.parent} holds {len(unmatched)} label files, and none of them has the name of a picture "
                f"({path.name}, but {picture.name}); give both the same names."
            )
        if label.parent == picture.parent or not label.parent.is_dir():
            where = f"{label.parent} is missing" if label.parent != picture.parent else f"{label} is missing"
            if split != "test":
                raise UserError(f"{where}: the label files of split {split!r} belong there.")
            sentence = "is missing; the pictures of the test split are read as pictures without objects"
            problems.add("warning", label.parent, "no labels", sentence)
    for path, why in unmatched:
        problems.add("warning", path.parent, "labels without an image", f"{path.name} {why}")


def _unmatched(folder: Path, pictures: set[Path]) -> Iterator[tuple[Path, str]]:
    """Label files in a folder of labels that belong to none of the pictures in some folders, and why."""
    entries = [entry for place in pictures if place.is_dir() for entry in place.iterdir()]
    read = {entry.stem for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES}
    not_read = {entry.stem: entry.name for entry in entries if entry.suffix.lower() in OTHER_SUFFIXES}
    for path in sorted(folder.glob("*.txt")):
        if path.stem in read or path.name.startswith(".") or path.name in LISTS:
            continue
        if path.stem in not_read:
            yield path, f"belongs to {not_read[path.stem]}, whose format is not read; convert it to PNG or JPEG"
        elif folder not in pictures or _ROW.match(_beginning(path)):  # lists and notes lie beside pictures, too
            yield path, "belongs to no picture: there is none of its name"


def _beginning(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8", "replace")[:200]
    except UserError:
        return ""


class _Rows:
    """Reads label files; what shows only over many rows is judged at the end."""

    def __init__(self, config: YoloConfig, problems: Problems) -> None:
        self.file = config.file
        self.label_of = {category.id: label for label, category in enumerate(config.categories)}
        self.keypoints = config.keypoints
        self.problems = problems
        self.polygons = self.like_keypoints = 0

    def read(self, file: Path) -> list[tuple[int, Box]]:
        """Label and relative xyxy box of each good row; empty where the file does not exist.

        Raises:
            UserError: when it is no text.
        """
        try:
            lines = read_text(file).splitlines()
        except MissingFileError:
            return []
        found = []
        for number, line in enumerate(lines, start=1):
            words = _words(line)
            if not words:
                continue
            category, *values = [_number(word) for word in words]
            title = f"{file} line {number}"
            if category is None or None in values or category != category or abs(category) >= 2**31:
                sentence = f"line {number} is {line.strip()[:60]!r}; expected 'class cx cy w h' (or a polygon)"
                self.problems.add("error", file, "bad label line", sentence, bad=title)
            elif category != int(category) or int(category) not in self.label_of:
                sentence = f"line {number} has the class {words[0][:20]}, which {self.file.name} does not name"
                self.problems.add("error", file, "unknown category", sentence, bad=title)
                self.problems.unknown_classes.add(int(category))
            elif why := self._wrong_count(len(values)):
                sentence = f"line {number} is {line.strip()[:60]!r}; {why}"
                self.problems.add("error", file, "bad label line", sentence, bad=title)
            else:
                numbers = [value for value in values if value is not None]
                found.append((self.label_of[int(category)], self._box(file, number, numbers)))
        return found

    def _wrong_count(self, count: int) -> str:
        if self.keypoints is not None:
            points, values = self.keypoints
            wanted = 4 + points * values
            kpt_shape = f"kpt_shape: [{points}, {values}] asks for {1 + wanted}"
            return "" if count == wanted else f"it has {1 + count} numbers, and {kpt_shape}"
        if count == 5:
            return "it has six numbers, as detections with a score have; labels are 'class cx cy w h'"
        if count == 4 or (count >= 6 and count % 2 == 0):
            return ""
        keypoints = "; for keypoints, the yaml needs kpt_shape" if count > 5 else ""
        return f"expected 'class cx cy w h' (or a polygon){keypoints}"

    def _box(self, file: Path, number: int, values: list[float]) -> Box:
        x, y, width, height = values[:4]
        around = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        if len(values) == 4 or self.keypoints is not None:
            return around
        xs, ys = values[::2], values[1::2]
        if min(values) < -_ROUNDING or max(values) > 1 + _ROUNDING:
            sentence = f"line {number} is a polygon with values outside 0 to 1; if these are keypoints, set kpt_shape"
            self.problems.add("warning", file.parent, "polygon outside", f"{file.name}, {sentence}")
        self.polygons += 1
        points = list(zip(xs[2:], ys[2:], strict=True))
        self.like_keypoints += all(
            around[0] - _ROUNDING <= px <= around[2] + _ROUNDING
            and around[1] - _ROUNDING <= py <= around[3] + _ROUNDING
            for px, py in points
        )
        return min(xs), min(ys), max(xs), max(ys)

    def judge(self) -> None:
        """Say when all polygons look like boxes with keypoints."""
        if self.like_keypoints == self.polygons >= _FEW:
            sentence = "all long label rows look like boxes followed by keypoints in them, and are read as polygons"
            self.problems.add(
                "warning", self.file, "keypoints", f"{sentence}; if they are keypoints, set kpt_shape", self.polygons
            )


def _words(line: str) -> list[str]:
    """The numbers of a row, which some tools separate by commas or semicolons, or write with decimal commas."""
    words = line.replace(";", " ").split()
    if len(words) > 1 and all(re.fullmatch(r"-?\d+(,\d+)?", word) for word in words) and "," in line:
        return [word.replace(",", ".") for word in words]
    return line.replace(";", " ").replace(",", " ").split()


def _number(word: str) -> float | None:
    try:
        return float(word) if word.isascii() and "_" not in word else None
    except ValueError:
        return None
