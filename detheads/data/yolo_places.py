"""Where the pictures of a YOLO split and their label files lie, by ``data.yaml`` or by the customary folders."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from detheads.data.dataset import SPLIT_NAME
from detheads.data.file_names import ImageFiles
from detheads.data.parsed import Problems
from detheads.data.yolo_config import YoloConfig, exists, is_file, is_folder
from detheads.foundation.errors import UserError, suggest
from detheads.foundation.images import IMAGE_SUFFIXES, OTHER_SUFFIXES, survey
from detheads.foundation.reading import read_text


@dataclass(frozen=True)
class Places:
    """The folders of pictures, and the text files that list pictures, of one split."""

    split: str
    paths: tuple[Path, ...]
    remarks: tuple[str, ...] = ()
    missing: str = ""
    """Why the split cannot be read: what the description names and is not there."""


@dataclass
class Pictures:
    """The picture files of a split."""

    base: Path
    """The folder that their names are relative to."""
    paths: list[Path] = field(default_factory=list)


def find_places(config: YoloConfig) -> list[Places]:
    """Where each split lies.

    Raises:
        UserError: when the description and the folders disagree about a place.
    """
    here = config.here
    customary = _customary(here)
    if not config.splits:
        return [Places(split, (path,)) for split, path in sorted(customary.items())]
    named = [_named(config, split, customary) for split in config.splits]
    taken = [path.resolve() for places in named for path in places.paths]
    result = []
    for places in named:
        other = customary.get(places.split)
        folders = bool(places.paths) and all(map(is_folder, places.paths))
        if other is not None and folders and not any(_related(other.resolve(), path) for path in taken):
            sentence = f"it does not name {other}, which is called like the split {places.split!r} and is not read"
            places = Places(places.split, places.paths, (*places.remarks, sentence))
        result.append(places)
    known = {_alias(split) for split in config.splits}
    for split, path in sorted(customary.items()):
        if (
            SPLIT_NAME.fullmatch(split)
            and _alias(split) not in known
            and not any(_related(path.resolve(), place) for place in taken)
        ):
            result.append(Places(split, (path,), ("it does not name this split, which lies in the customary folder",)))
    return result


def pictures_of(places: Places, config: YoloConfig, problems: Problems) -> Pictures:
    """The pictures of a split, each once: of folders in the order of names, of a text file in its order.

    Raises:
        UserError: when a place is missing.
    """
    if places.missing:
        raise UserError(f"{config.file} {places.missing}")
    found: dict[Path, None] = {}
    for place in places.paths:
        if is_folder(place):
            listing = survey(place)
            for sentence in listing.remarks():
                problems.add("warning", place, sentence[:20], sentence)
            found |= {place / name: None for name in listing.names}
        else:
            found |= dict.fromkeys(_listed(place, config, problems))
    folders = list(filter(is_folder, places.paths))
    if len(places.paths) == 1 and folders:
        return Pictures(folders[0], list(found))
    paths = list(found)
    if any(path.is_absolute() for path in paths):
        paths = [path.absolute() for path in paths]
    parents = {path.parent for path in paths}
    return Pictures(Path(os.path.commonpath(parents)) if parents else config.here, paths)


def label_file(picture: Path, root: Path) -> Path:
    """The label file of a picture: beside it, or where the last folder ``images`` of its path is ``labels`` instead.

    As in Ultralytics' tools; folders above ``root`` do not count.
    """
    parts = list(picture.relative_to(root).parts if picture.is_relative_to(root) else picture.parts)
    beside = picture.with_suffix(".txt")
    for index in range(len(parts) - 2, -1, -1):
        if parts[index].lower() == "images":
            parts[index] = {"images": "labels", "IMAGES": "LABELS"}.get(parts[index], "Labels")
            mirrored = root.joinpath(*parts).with_suffix(".txt")
            return mirrored if exists(mirrored) or not exists(beside) else beside
    return beside


def _named(config: YoloConfig, split: str, customary: dict[str, Path]) -> Places:
    paths, remarks = [], []
    for place in config.splits[split]:
        path, remark = _resolved(config, place)
        if path is None:
            there = next((path for name, path in customary.items() if _alias(name) == _alias(split)), None)
            names = [entry.name for entry in config.here.iterdir()]
            hint = (
                f", while {there} is there; correct one of them." if there else f".{suggest(Path(place).name, names)}"
            )
            return Places(split, (), missing=f"names {place!r} for {split!r}, which does not exist{hint}")
        paths.append(Path(os.path.normpath(path)))
        remarks += [remark] if remark else []
    return Places(split, tuple(paths), tuple(dict.fromkeys(remarks)))


def _resolved(config: YoloConfig, place: str) -> tuple[Path | None, str]:
    """Where a place of the description is, and what had to be assumed; None where it is not.

    Raises:
        UserError: when two different places may be meant.
    """
    here = config.here
    place = place.strip().replace("\\", "/")
    root = here / config.root.strip().replace("\\", "/") if config.root else here
    literal, beside = root / place, here / place
    if exists(literal) and literal.resolve() in here.resolve().parents:
        raise UserError(
            f"{config.file} names {place!r}, which is {literal.resolve()}, a folder above its own; correct it."
        )
    inner = here / re.sub(r"^(\.\./)+", "", place)  # Roboflow writes '../train/images' for what lies beside the file
    if exists(literal):
        # A copied folder whose file still names the original, or an export beside an older one.
        foreign = not literal.resolve().is_relative_to(here.resolve())
        rival = next((path for path in (beside, inner) if exists(path) and not _same(path, literal)), None)
        if foreign and rival is not None:
            raise UserError(
                f"{config.file} names {place!r}, which is {literal.resolve()}, while {rival} is there too; correct the "
                "file or remove one of them."
            )
        return literal, ""
    if exists(beside):
        missing = f"its path {config.root!r}" if not exists(root) else str(literal)
        return beside, f"{missing} does not exist; {place!r} is taken from the folder of the file"
    if exists(inner):
        return inner, f"{place!r} does not exist; {inner.relative_to(here).as_posix()!r} beside the file is taken"
    return None, ""


def _same(first: Path, second: Path) -> bool:
    return first.resolve() == second.resolve()


def _listed(text_file: Path, config: YoloConfig, problems: Problems) -> Iterator[Path]:
    """The pictures that a text file lists, one name a line."""
    here = config.here
    root = here / config.root if config.root and is_folder(here / config.root) else here
    files = ImageFiles(root)
    for number, line in enumerate(read_text(text_file).splitlines(), start=1):
        name = line.strip().replace("\\", "/")
        if not name:
            continue
        places = [text_file.parent / name] if name.startswith("./") else []
        places += [root / name, text_file.parent / name, here / name]
        path = next((Path(os.path.normpath(place)) for place in places if is_file(place)), None)
        if path is None:
            try:
                found = files.find(name)
            except UserError as error:
                sentence = f"line {number}: {str(error).rstrip('.')}"
                problems.add("error", text_file, "picture of a list", sentence, bad=f"{text_file} line {number}")
                continue
            path = root / found
            problems.add(
                "note", text_file, "file under another name", f"line {number}, {name!r}, was found as {found!r}"
            )
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            sentence = f"line {number}: {name!r} is of a format that is not read; convert it to PNG or JPEG"
            problems.add("error", text_file, "picture of a list", sentence, bad=f"{text_file} line {number}")
            continue
        yield path


def _customary(folder: Path) -> dict[str, Path]:
    """Folders that are laid out like splits: ``images/SPLIT``, ``SPLIT/images``, ``SPLIT``, or one of all pictures."""
    found = {path.name: path for path in _folders(folder / "images")}
    found |= {path.name: path / "images" for path in _folders(folder) if (path / "images").is_dir()}
    if not found:
        found = {
            path.name: path for path in _folders(folder) if SPLIT_NAME.fullmatch(path.name) and _has_pictures(path)
        }
    if not found:
        alone = (folder / "images", folder / "obj_train_data", folder / "data", folder)
        path = next((path for path in alone if path.is_dir() and _has_pictures(path, deep=False)), None)
        found = {"all": path} if path is not None else {}
    return found


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _has_pictures(folder: Path, *, deep: bool = True) -> bool:
    """Whether pictures lie in a folder, or in folders of it."""
    entries = folder.rglob("*") if deep else folder.iterdir()
    return any(entry.suffix.lower() in IMAGE_SUFFIXES | OTHER_SUFFIXES for entry in entries)


def _related(first: Path, second: Path) -> bool:
    return first.is_relative_to(second) or second.is_relative_to(first)


def _alias(split: str) -> str:
    return "val" if split in {"valid", "validation", "val"} else split
