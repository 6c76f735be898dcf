"""What describes a YOLO dataset: ``data.yaml``, Darknet's ``obj.data``, or a bare list of class names."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from detheads.data.dataset import Category
from detheads.foundation.errors import UserError
from detheads.foundation.reading import LARGEST_YAML, parse_yaml, read_bytes, read_text

LISTS = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")
"""Files with one class name a line, as labelling tools write them."""

_NOT_SPLITS = frozenset({"names", "path", "download", "nc", "kpt_shape", "flip_idx", "colors", "roboflow", "channels"})
_SPLIT_KEYS = frozenset({"train", "val", "valid", "validation", "test"})


@dataclass(frozen=True)
class YoloConfig:
    """The description of a dataset."""

    file: Path
    categories: tuple[Category, ...]
    root: str | None = None
    """``path`` of a ``data.yaml``, what its other paths are relative to."""
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Split -> folders and text files, as written."""
    keypoints: tuple[int, int] | None = None
    """``kpt_shape``: keypoints of an object and values of each, which follow its box in a label row."""
    remarks: tuple[str, ...] = ()
    """What was repaired when reading it."""
    folder: Path | None = None
    """The dataset's folder where it is not the file's own."""

    @property
    def here(self) -> Path:
        """The dataset's folder."""
        return self.folder or self.file.parent


def find_config(folder: Path) -> YoloConfig | None:
    """The description in a dataset folder; None where there is none.

    Raises:
        UserError: when it cannot be read, or there are several of which none has the customary name.
    """
    for stem in ("data", "dataset"):
        if files := [path for path in (folder / f"{stem}.yaml", folder / f"{stem}.yml") if path.is_file()]:
            others = [path for path in _described(folder) if path not in files]
            configs = [read_config(path) for path in (*files, *others)]
            _require_one(configs)
            return configs[0]
    if described := _described(folder):
        configs = [read_config(path) for path in described]
        _require_one(configs)
        return configs[0]
    if darknet := sorted(folder.glob("*.data")):
        return _read_darknet(darknet[0])
    for name in LISTS:
        for place in (folder, *sorted(folder.glob("*"))):
            if is_file(place / name):
                return replace(read_config(place / name), folder=folder)
    return None


def read_config(path: Path) -> YoloConfig:
    """Read one description by the ending of its name.

    Raises:
        UserError: when it cannot be read or has no usable class names.
    """
    if path.suffix.lower() in {".yaml", ".yml"}:
        return _read_yaml(path)
    return _read_darknet(path) if path.suffix.lower() == ".data" else YoloConfig(path, _listed(path))


def _described(folder: Path) -> list[Path]:
    """YAML files that name classes."""
    found = []
    for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))):
        try:
            content = parse_yaml(_utf8(path)[0], path) if path.is_file() else None
        except UserError:
            continue
        if isinstance(content, dict) and isinstance(content.get("names"), dict | list) and _SPLIT_KEYS & content.keys():
            found.append(path)
    return found


def _require_one(configs: list[YoloConfig]) -> None:
    first = configs[0]
    for other in configs[1:]:
        if (other.categories, other.root, other.splits) != (first.categories, first.root, first.splits):
            raise UserError(
                f"{first.file} and {other.file.name} describe different datasets; give one of these files instead of "
                "the folder."
            )


def _read_yaml(path: Path) -> YoloConfig:
    data, remarks = _utf8(path)
    content: Any = parse_yaml(data, path)
    if not isinstance(content, dict):
        raise UserError(f"{path} has no usable 'names'; list the class names in the order of their indices.")
    root = content.get("path")
    root = root if isinstance(root, str) and root.strip() and root not in {"null", "~"} else None
    return YoloConfig(
        path,
        _names(content, path),
        root,
        _splits(content, path.parent / (root or "")),
        _keypoints(content, path),
        tuple(remarks),
    )


def _utf8(path: Path) -> tuple[bytes, list[str]]:
    """A YAML file's bytes in UTF-8 and without tabs, which YAML does not allow; what was changed."""
    data = read_bytes(path, LARGEST_YAML)
    remarks: list[str] = []
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16
        return data, remarks
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        data = data.decode("cp1252", "replace").encode("utf-8")
        remarks.append("is not UTF-8; it is read as Windows-1252 (Latin-1)")
    if re.search(rb"^[ ]*\t", data, re.MULTILINE):
        data = re.sub(rb"^[ \t]+", lambda match: match[0].expandtabs(4), data, flags=re.MULTILINE)
        remarks.append("is indented with tabs; they are read as four spaces")
    data = data.replace(b"\t", b" ")
    return data, remarks


def _names(content: Mapping[str, Any], path: Path) -> tuple[Category, ...]:
    names = content.get("names")
    if isinstance(names, str) and is_file(path.parent / names):
        return _listed(path.parent / names)
    if isinstance(names, list):
        names = {str(index): name for index, name in enumerate(names)}
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{path} has no usable 'names'; list the class names in the order of their indices.")
    if bad := [index for index in names if not (index.isdecimal() and len(index) < 10)]:
        raise UserError(f"{path} names a class {bad[0]!r}; class indices are whole numbers from 0.")
    count = content.get("nc")
    if count is not None and count != str(len(names)):
        raise UserError(f"{path} says nc: {str(count)[:40]} but names {len(names)} classes; correct one of them.")
    categories = (Category(int(index), name) for index, name in names.items())
    return tuple(sorted(categories, key=lambda category: category.id))


def _splits(content: Mapping[str, Any], base: Path) -> dict[str, tuple[str, ...]]:
    """The usual splits, and others whose folder or file is there: other keys may well hold addresses or texts."""
    splits = {}
    for key, value in content.items():
        places = [value] if isinstance(value, str) else value
        if key in _NOT_SPLITS or not isinstance(places, list) or not all(isinstance(place, str) for place in places):
            continue
        places = tuple(place for place in places if place.strip() and place not in {"null", "~"})
        if places and (key in _SPLIT_KEYS or all(exists(base / place) for place in places)):
            splits[key] = places
    return splits


def exists(path: Path) -> bool:
    """Whether there is something; false, too, for a text that cannot be a path."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises


def is_file(path: Path) -> bool:
    """Whether there is a file; false, too, for a text that cannot be a path."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises


def is_folder(path: Path) -> bool:
    """Whether there is a folder; false, too, for a text that cannot be a path."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises


def _keypoints(content: Mapping[str, Any], path: Path) -> tuple[int, int] | None:
    shape = content.get("kpt_shape")
    if shape is None:
        return None
    numbers = [str(number) for number in shape] if isinstance(shape, list) else []
    if len(numbers) != 2 or not re.fullmatch(r"\d{1,4}", numbers[0]) or numbers[1] not in {"2", "3"}:
        raise UserError(f"{path} says kpt_shape: {str(shape)[:40]}; expected the number of keypoints and 2 or 3.")
    return int(numbers[0]), int(numbers[1])


def _listed(path: Path) -> tuple[Category, ...]:
    names = [line.strip() for line in read_text(path, LARGEST_YAML).splitlines() if line.strip()]
    if not names:
        raise UserError(f"{path} lists no class names; write one a line.")
    return tuple(Category(index, name) for index, name in enumerate(names))


def _read_darknet(path: Path) -> YoloConfig:
    """Darknet's ``obj.data``: ``train = data/train.txt``; its paths are those of another folder more often than not."""
    pairs = (line.partition("=")[::2] for line in read_text(path, LARGEST_YAML).splitlines() if "=" in line)
    values = {key.strip(): value.strip() for key, value in pairs}
    named = values.get("names", "obj.names")
    names = next((place for place in (path.parent / named, path.parent / Path(named).name) if is_file(place)), None)
    if names is None:
        raise UserError(f"{path} names {named} as its list of class names, which does not exist; restore it.")
    splits = {}
    for key in ("train", "valid", "val", "test"):  # Datumaro writes 'val'
        if place := values.get(key):
            name = Path(place).name
            splits[key] = (name if not exists(path.parent / place) and exists(path.parent / name) else place,)
    return YoloConfig(path, _listed(names), splits=splits)
