"""COCO-style datasets: one JSON file for each split, and the images in a folder of the split or in one of all splits.

What comes from COCO itself is ``annotations/instances_SPLIT.json`` with ``SPLIT/`` or ``images/SPLIT/``. Other tools
write ``annotations/SPLIT.json``, ``SPLIT.json``, ``SPLIT/labels.json``, or a single file of any name beside ``images``.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from detheads.data.coco import parse_coco_json
from detheads.data.dataset import SPLIT_NAME, Dataset
from detheads.data.layout import Conversion, Split
from detheads.data.layouts.roboflow import ANNOTATIONS as ROBOFLOW
from detheads.foundation.atomic import write_json
from detheads.foundation.errors import UserError
from detheads.foundation.reading import open_regular

NEEDS = "annotations/instances_SPLIT.json (COCO)"

_PREFIX = re.compile(r"^(instances|coco|annotations?|labels|person_keypoints|image_info)[_.-]|[_.-]?default$", re.I)
_SUFFIX = re.compile(r"[_.-](annotations?|coco|instances|labels|gt|images?)$", re.I)
_COMPANIONS = ("captions_", "panoptic_", "stuff_")
"""Files that COCO puts beside the boxes, with other things in them."""
_FOLDERS = frozenset({"annotation", "annotations"})
_LOOKED_AT = 1 << 20
"""Bytes in which a COCO file says that it has images."""


def find(folder: Path) -> list[Split]:
    """The splits of a COCO-style folder, or of one annotation file."""
    if folder.is_file():
        if folder.suffix.lower() != ".json" or folder.name == ROBOFLOW:
            return []
        root = folder.parent.parent if folder.parent.name.lower() in _FOLDERS else folder.parent
        return [_split(root, _split_of(folder) or "all", folder)]
    named = _named(folder)
    if named:
        return [_split(folder, name, path) for name, path in sorted(named.items())]
    alone = [path for path in _files(folder, _annotation_folders(folder)) if _is_coco(path)]
    if len(alone) > 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in alone)
        raise UserError(
            f"{folder} holds several annotation files ({names}); call them after splits, or give one of them."
        )
    return [_split(folder, "all", path, certain=False) for path in alone]


def write(splits: Sequence[Dataset], folder: Path, conversion: Conversion) -> list[Path]:
    """Write the annotations with their image and category ids."""
    for dataset in splits:
        write_json(folder / "annotations" / f"instances_{dataset.split}.json", dataset.coco_json())
        conversion.boxes += sum(len(objects.boxes) for objects in dataset.objects)
    return [folder / dataset.split for dataset in splits]


def _split(folder: Path, name: str, path: Path, *, certain: bool = True) -> Split:
    places = _image_folders(folder, name, path)
    images = next((place for place in places if place.is_dir()), places[0])
    read = partial(parse_coco_json, path, places)
    return Split(folder.resolve().name, name, path, images, read, certain=certain)


def _image_folders(folder: Path, split: str, path: Path) -> list[Path]:
    """Where the images may lie, the likeliest first."""
    own = [folder / "images" / split, folder / split, folder / split / "images", folder / split / "data"]
    if not (folder / "images").is_dir():
        own = [*own[1:], own[0]]
    shared = [folder / name for name in ("images", "data", "JPEGImages", "img")]
    beside = [path.parent / split, path.parent / "images", path.parent / "data", path.parent]
    return list(dict.fromkeys((*own, *shared, *beside, folder)))


def _named(folder: Path) -> dict[str, Path]:
    """Annotation files that are called after a split, or lie alone in a folder that is; the best one of each split.

    Raises:
        UserError: when two files are equally good.
    """
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in _files(folder, _annotation_folders(folder)):
        if name := _split_of(path):
            found.setdefault(name, []).append((_rank(path), path))
    for place in (place for place in sorted(folder.glob("*")) if SPLIT_NAME.fullmatch(place.name) and place.is_dir()):
        inner = _files(place, [place, place / "annotations"])
        for path in inner:
            if len(inner) == 1 and _is_coco(path):
                found.setdefault(place.name, []).append((9, path))
    best = {}
    for name, ranked in found.items():
        ranked.sort()
        if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
            raise UserError(
                f"{ranked[0][1]} and {ranked[1][1]} may both be the annotations of split {name!r}; give one of them."
            )
        best[name] = ranked[0][1]
    return best


def _annotation_folders(folder: Path) -> list[Path]:
    return [
        *(place for place in sorted(folder.glob("*")) if place.name.lower() in _FOLDERS),
        folder,
    ]


def _files(folder: Path, places: Sequence[Path]) -> list[Path]:
    def candidates() -> Iterator[Path]:
        for place in places:
            for path in sorted(place.glob("*.json")):
                if path.name != ROBOFLOW and not path.name.startswith((".", *_COMPANIONS)) and path.is_file():
                    yield path

    return list(candidates())


def _split_of(path: Path) -> str | None:
    """The split that an annotation file is called after; ``instances_`` may be followed by any name."""
    stem = path.stem
    if stem.startswith("instances_"):
        return stem.removeprefix("instances_")
    plain = _SUFFIX.sub("", _PREFIX.sub("", stem))
    return plain if SPLIT_NAME.fullmatch(plain) else None


def _rank(path: Path) -> int:
    """How good an annotation file is for boxes, by its name: 0 is the best."""
    for rank, prefix in enumerate(("instances_", "person_keypoints_", "image_info_")):
        if path.name.startswith(prefix):
            return (0, 2, 3)[rank]
    return 1


def _is_coco(path: Path) -> bool:
    """Whether a JSON file is likely to list images and objects, by its beginning and its end."""
    try:
        with open_regular(path) as stream:
            head = stream.read(_LOOKED_AT)
            stream.seek(max(0, path.stat().st_size - _LOOKED_AT))
            tail = stream.read(_LOOKED_AT)
    except (UserError, OSError):
        return False
    opened = head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    return opened and all(re.search(rb'"%s"\s*:\s*\[' % key, head + tail) for key in (b"images", b"categories"))
