"""Small dataset folders to break."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Document = dict[str, Any]


def document() -> Document:
    """Two images of 40x30 pixels, one of them without objects; category ids with a gap."""
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 40, "height": 30},
            {"id": 3, "file_name": "b.jpg", "width": 40, "height": 30},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 9, "bbox": [1.5, 2, 10, 20], "area": 150, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 4, "bbox": [5, 5, 6.25, 7], "area": 43.75, "iscrowd": 0},
        ],
        "categories": [{"id": 9, "name": "zebra"}, {"id": 4, "name": "ant"}],
    }


def write_coco(folder: Path, content: Document | str, split: str = "train") -> Path:
    """A COCO-style folder with real pictures for the two images."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / split).mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "annotations" / f"instances_{split}.json").write_text(text, encoding="utf-8")
    for name, color in (("a.jpg", "red"), ("b.jpg", "blue")):
        Image.new("RGB", (40, 30), color).save(folder / split / name)
    return folder


@pytest.fixture
def coco_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a COCO-style folder after ``change`` has altered its annotations."""

    def build(change: Callable[[Document], object] | None = None, split: str = "train") -> Path:
        content = document()
        if change is not None:
            change(content)
        return write_coco(tmp_path / "set", content, split)

    return build


@pytest.fixture
def yolo_folder(tmp_path: Path) -> Path:
    """A YOLO folder: one image with a box and a polygon, one without a label file."""
    folder = tmp_path / "yolo"
    for part in ("images", "labels"):
        (folder / part / "train").mkdir(parents=True)
    (folder / "data.yaml").write_text("nc: 2\nnames: [ant, no]\n", encoding="utf-8")
    Image.new("RGB", (40, 20), "red").save(folder / "images" / "train" / "a.png")
    Image.new("RGB", (20, 40), "blue").save(folder / "images" / "train" / "b.png")
    labels = "1 0.5 0.5 0.5 0.2\n0 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6\n"
    (folder / "labels" / "train" / "a.txt").write_text(labels, encoding="utf-8")
    return folder
