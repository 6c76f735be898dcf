"""Which pictures to run, and under which image ids their results are written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detheads.data import read_dataset
from detheads.foundation.errors import UserError
from detheads.foundation.images import list_images
from detheads.foundation.reading import read_json


@dataclass(frozen=True)
class InputImage:
    """A picture file. ``name`` is how an annotation file would call it: its path below the given folder."""

    id: int
    name: str
    path: Path


def collect_images(
    sources: Sequence[Path], *, split: str | None = None, images_json: Path | None = None
) -> list[InputImage]:
    """Pictures from files, folders (searched with their subfolders, in name order) or one split of a dataset.

    Ids are 1, 2, 3, ... in order, the dataset's own with ``split``, or those of the COCO file ``images_json``.

    Raises:
        UserError: when a source does not exist, a folder holds no picture, or a picture is not in ``images_json``.
    """
    if split is not None:
        if len(sources) != 1 or images_json is not None:
            raise UserError("--split takes exactly one dataset folder and no --images-json.")
        return [InputImage(image.id, image.file_name, image.path) for image in read_dataset(sources[0], split).images]
    found = [entry for source in sources for entry in _pictures(source)]
    ids = None if images_json is None else _ids_of(images_json)
    images = []
    for position, (name, path) in enumerate(found, start=1):
        if ids is None:
            images.append(InputImage(position, name, path))
        elif name in ids:
            images.append(InputImage(ids[name], name, path))
        else:
            raise UserError(f"{path} is not among the images of {images_json}; its results would have no image id.")
    if len({image.id for image in images}) < len(images):
        raise UserError("two of the pictures have the same image id; give each picture once.")
    return images


def _pictures(source: Path) -> list[tuple[str, Path]]:
    if source.is_dir():
        names = list_images(source)
        if not names:
            raise UserError(f"{source} holds no pictures.")
        return [(name, source / name) for name in names]
    if not source.exists():
        raise UserError(f"{source} does not exist.")
    return [(source.name, source)]


def _ids_of(path: Path) -> dict[str, int]:
    document: Any = read_json(path)
    try:
        return {str(image["file_name"]): int(image["id"]) for image in document["images"]}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is not a COCO file: its 'images' need 'id' and 'file_name' each.") from None
