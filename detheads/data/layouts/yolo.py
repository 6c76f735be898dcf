"""YOLO folders: ``data.yaml`` with the class names and places, one text file of normalised boxes for each image.

What other tools write of the kind is read, too: ``dataset.yaml``, Darknet's ``obj.data``, and ``classes.txt`` alone.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from detheads.data.dataset import Dataset
from detheads.data.layout import Conversion, Split
from detheads.data.yolo import parse_yolo
from detheads.data.yolo_config import find_config, is_folder, read_config
from detheads.data.yolo_places import find_places
from detheads.foundation.atomic import inside, write_text
from detheads.foundation.errors import UserError

NEEDS = "data.yaml with images/SPLIT (YOLO)"


def find(folder: Path) -> list[Split]:
    """The splits that the description in a folder, or a description itself (``coco128.yaml``), tells of."""
    if folder.is_dir():
        config = find_config(folder)
    else:
        config = read_config(folder) if folder.suffix.lower() in {".yaml", ".yml", ".data"} else None
    if config is None:
        return []
    here = config.here
    return [
        Split(
            here.resolve().name,
            places.split,
            config.file,
            places.paths[0] if len(places.paths) == 1 and is_folder(places.paths[0]) else here,
            partial(parse_yolo, config, places),
            labels=here,
            optional=bool(places.missing) and places.split == "test",
            certain=config.file.suffix != ".txt",
        )
        for places in find_places(config)
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
