"""Which pictures to run, and under which image ids their results are written."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from detheads.data import read_dataset
from detheads.data.dataset import ImageRecord
from detheads.data.pictures import load_picture
from detheads.deploy.video.sources import is_video, shown
from detheads.foundation.errors import UserError, suggest
from detheads.foundation.images import load_image, survey
from detheads.foundation.progress import Remark, unheard
from detheads.foundation.reading import read_json

RESULTS_NAME = "detections.json"
IMAGES_NAME = "images.json"
PICTURES_NAME = "pictures"
"""What the folder of a run holds; results in another form have another ending."""
UNFINISHED = ".{}.unfinished"
"""What a run of which name lies in, beside its folder, until it is done."""

_NO_VIDEO = "{} is a video, and pictures are needed; 'detheads deploy run' takes one video by itself."


@dataclass(frozen=True)
class InputImage:
    """A picture file. ``name`` is how an annotation file would call it: its path below the given folder."""

    id: int
    name: str
    path: Path
    record: ImageRecord | None = None
    """What a dataset says of it."""

    def load(self, on_remark: Remark) -> Image.Image:
        """Decode it to RGB.

        Raises:
            UserError: when it cannot be read, or is not the picture that the dataset describes.
        """
        return load_image(self.path, on_remark) if self.record is None else load_picture(self.record, on_remark)


def collect_images(
    sources: Sequence[str | Path],
    *,
    split: str | None = None,
    images_json: Path | None = None,
    skip_bad: bool = False,
    on_remark: Remark = unheard,
) -> list[InputImage]:
    """Pictures from files, patterns, folders (searched with their subfolders, in name order) or one split of a dataset.

    Ids are 1, 2, 3, ... in order, the dataset's own with ``split``, or those of the COCO file ``images_json``. A file
    that is given twice is run once; the annotated pictures of an earlier run are left out of a folder.

    Args:
        skip_bad: go on without the entries of a dataset that cannot be used.
        on_remark: called with one sentence for each kind of thing that was left out or is unusual.

    Raises:
        UserError: when a source does not exist, a folder holds no picture, or a picture is not in ``images_json``.
    """
    if split is not None:
        if len(sources) != 1 or images_json is not None:
            raise UserError("--split takes exactly one dataset folder and no --images-json.")
        return _of_split(Path(sources[0]), split, skip_bad, on_remark)
    for source in sources:
        if is_video(str(source)):
            raise UserError(_NO_VIDEO.format(shown(str(source))))
    found = [entry for source in sources for entry in _pictures(Path(source), on_remark)]
    unique: dict[str, tuple[str, Path]] = {}
    for name, path in found:
        unique.setdefault(os.path.abspath(path), (name, path))  # noqa: PTH100 - resolve() would follow links
    if len(unique) < len(found):
        on_remark(f"{len(found) - len(unique)} pictures are given more than once; each is run once")
    ids = None if images_json is None else _ids_of(images_json)
    images = []
    for position, (name, path) in enumerate(unique.values(), start=1):
        if ids is None:
            images.append(InputImage(position, name, path))
        elif name in ids:
            images.append(InputImage(ids[name], name, path))
        else:
            raise UserError(f"{path} is not among the images of {images_json}; its results would have no image id.")
    if len({image.id for image in images}) < len(images):
        raise UserError("two of the pictures have the same image id; give each picture once.")
    _remark_on_names(images, on_remark)
    return images


def _of_split(folder: Path, split: str, skip_bad: bool, on_remark: Remark) -> list[InputImage]:
    dataset = read_dataset(folder, split, skip_bad=skip_bad)
    for sentence in dataset.remarks:
        on_remark(sentence)
    for name, reason in dataset.skipped.items():
        on_remark(f"left out {name}: {reason}")
    return [InputImage(image.id, image.file_name, image.path, image) for image in dataset.images]


def _pictures(source: Path, on_remark: Remark) -> list[tuple[str, Path]]:
    if source.is_dir():
        return _of_folder(source, on_remark)
    if is_video(str(source)):
        raise UserError(_NO_VIDEO.format(source))
    if source.exists():
        if is_output(source.parent):
            on_remark(f"{source} was drawn by an earlier run: its boxes are part of the picture")
        return [(source.name, source)]
    if glob.has_magic(str(source)):
        matches = sorted(map(Path, glob.glob(str(source), recursive=True)))  # noqa: PTH207 - the pattern may be absolute
        if not matches:
            raise UserError(f"no file matches {source}; correct the pattern.")
        return [entry for match in matches for entry in _pictures(match, on_remark)]
    if source.name.isdecimal():
        raise UserError(
            f"{source} does not exist; for the camera of that number give camera:{source.name} to 'deploy run'."
        )
    siblings = [entry.name for entry in source.parent.iterdir()] if source.parent.is_dir() else []
    raise UserError(f"{source} does not exist.{suggest(source.name, siblings)}")


def _of_folder(folder: Path, on_remark: Remark) -> list[tuple[str, Path]]:
    listing = survey(folder)
    for sentence in listing.remarks():
        on_remark(f"{folder}: {sentence}")
    if is_output(folder):
        on_remark(f"the pictures of {folder} were drawn by an earlier run: its boxes are part of them")
        return [(name, folder / name) for name in listing.names]
    parents = _parents(listing.names)
    outputs = {parent for parent in parents if is_output(folder / parent) or _is_unfinished(parent)}
    names = [name for name in listing.names if outputs.isdisjoint(_parents([name]))]
    if len(names) < len(listing.names):
        on_remark(f"{folder}: {len(listing.names) - len(names)} pictures drawn by an earlier run are left out")
    if not names:
        only = " but those that an earlier run has drawn" if listing.names else ""
        raise UserError(f"{folder} holds no pictures{only}.")
    return [(name, folder / name) for name in names]


def _parents(names: Sequence[str]) -> set[str]:
    """The folders of relative paths, and the folders of those."""
    found: set[str] = set()
    for name in names:
        parent = os.path.dirname(name)  # noqa: PTH120 - a Path for each of a million names is slow
        while parent and parent not in found:
            found.add(parent)
            parent = os.path.dirname(parent)  # noqa: PTH120
    return found


def is_output(folder: Path) -> bool:
    """Whether an earlier run has drawn the pictures of ``folder``."""
    beside = folder.absolute().parent
    results = beside.glob(f"{Path(RESULTS_NAME).stem}.*")
    return folder.absolute().name == PICTURES_NAME and (beside / IMAGES_NAME).is_file() and any(results)


def _is_unfinished(folder: str) -> bool:
    """Whether a run that was stopped, or lasts, keeps its results in ``folder``."""
    begin, end = UNFINISHED.split("{}")
    name = os.path.basename(folder)  # noqa: PTH119 - a Path for each of a million names is slow
    return name.startswith(begin) and name.endswith(end)


def _remark_on_names(images: Sequence[InputImage], on_remark: Remark) -> None:
    again = {name: count for name, count in Counter(image.name for image in images).items() if count > 1}
    if again:
        first = next(iter(again))
        on_remark(
            f"{sum(again.values())} pictures share {len(again)} names, such as {first}; in {IMAGES_NAME} their ids "
            "tell them apart"
        )


def _ids_of(path: Path) -> dict[str, int]:
    document: Any = read_json(path)
    try:
        return {str(image["file_name"]): int(image["id"]) for image in document["images"]}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is not a COCO file: its 'images' need 'id' and 'file_name' each.") from None
