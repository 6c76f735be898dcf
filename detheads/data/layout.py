"""Which layout a dataset folder has, and where the parts of its splits lie."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from detheads.data.coco import parse_coco_json
from detheads.data.parsed import Parsed
from detheads.data.yolo import parse_yolo
from detheads.foundation.errors import UserError

LayoutName = Literal["coco", "roboflow", "yolo"]

ROBOFLOW_FILE = "_annotations.coco.json"
_ALIASES = {"val": "valid", "valid": "val"}


@dataclass(frozen=True)
class Split:
    """Where one split of a dataset lies."""

    layout: LayoutName
    dataset: str
    """The dataset's name: its folder's."""
    name: str
    annotations: Path
    """The COCO JSON file, or ``data.yaml`` in a YOLO folder."""
    images: Path
    labels: Path | None = None
    """The folder of label files in a YOLO folder."""

    def parse(self) -> Parsed:
        """Parse the split without dropping anything.

        Raises:
            UserError: when a folder of it is missing or its annotation file is unreadable.
        """
        if not self.images.is_dir():
            raise UserError(f"{self.images} is missing: the images of split {self.name!r} belong there.")
        if self.labels is not None:
            # One label file may be absent; all of them at once is a folder in the wrong place.
            if not self.labels.is_dir():
                raise UserError(f"{self.labels} is missing: the label files of split {self.name!r} belong there.")
            return parse_yolo(self.annotations, self.images, self.labels)
        return parse_coco_json(self.annotations, self.images, roboflow=self.layout == "roboflow")


def find_splits(folder: Path) -> dict[str, Split]:
    """The splits of a dataset folder by name; all have the same layout.

    Raises:
        UserError: when the folder is missing or has none of the known layouts.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder of a dataset.")
    for find in (_coco_splits, _roboflow_splits, _yolo_splits):
        if splits := find(folder):
            return {split.name: split for split in splits}
    raise UserError(
        f"{folder} is not a dataset folder: it needs annotations/instances_SPLIT.json (COCO), "
        f"SPLIT/{ROBOFLOW_FILE} (Roboflow) or data.yaml with images/SPLIT (YOLO)."
    )


def find_split(folder: Path, name: str | None = None) -> Split:
    """One split: the named one ('val' and 'valid' mean the same), else the only one, else the training split.

    Raises:
        UserError: when there is no such split.
    """
    splits = find_splits(folder)
    if name is None:
        if len(splits) == 1:
            return next(iter(splits.values()))
        training = [split for split in splits.values() if split.name.startswith("train")]
        if len(training) == 1:
            return training[0]
        raise UserError(f"{folder} has the splits {', '.join(splits)}; choose one.")
    if name in splits:
        return splits[name]
    if _ALIASES.get(name) in splits:
        return splits[_ALIASES[name]]
    raise UserError(f"{folder} has no split {name!r}; it has {', '.join(splits)}.")


def _coco_splits(folder: Path) -> list[Split]:
    splits = []
    for path in sorted((folder / "annotations").glob("instances_*.json")):
        name = path.stem.removeprefix("instances_")
        nested = folder / "images" / name
        splits.append(Split("coco", folder.resolve().name, name, path, nested if nested.is_dir() else folder / name))
    return splits


def _roboflow_splits(folder: Path) -> list[Split]:
    return [
        Split("roboflow", folder.resolve().name, path.parent.name, path, path.parent)
        for path in sorted(folder.glob(f"*/{ROBOFLOW_FILE}"))
    ]


def _yolo_splits(folder: Path) -> list[Split]:
    configurations = [path for path in (folder / "data.yaml", folder / "data.yml") if path.is_file()]
    if not configurations:
        return []
    found = {path.name: (path, folder / "labels" / path.name) for path in _folders(folder / "images")}
    found |= {path.name: (path / "images", path / "labels") for path in _folders(folder) if (path / "images").is_dir()}
    return [
        Split("yolo", folder.resolve().name, name, configurations[0], images, labels)
        for name, (images, labels) in sorted(found.items())
    ]


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
