"""A further layout is one file: it is read, refused and written like those that are there."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detheads.data import layouts, read_dataset
from detheads.data.layout import known_layouts

LAYOUT = '''
"""A list of image names and one box each."""

from functools import partial

import numpy as np

from detheads.data.dataset import Category, ImageRecord
from detheads.data.layout import Split
from detheads.data.parsed import Parsed, Problems

NEEDS = "things.txt (things)"


def find(folder):
    path = folder / "things.txt"
    return [Split(folder.name, "all", path, folder, partial(_read, path))] if path.is_file() else []


def _read(path):
    rows = [line.split() for line in path.read_text().splitlines()]
    images = tuple(ImageRecord(i, name, path.parent / name, 40, 30) for i, (name, *_) in enumerate(rows, start=1))
    boxes = np.array([[float(x) for x in box] for _, *box in rows])
    count = len(rows)
    return Parsed(path, (Category(1, "thing"),), images, boxes, np.arange(count), np.zeros(count, np.int64),
                  np.zeros(count, np.bool_), np.full(count, np.nan), Problems())


def write(splits, folder, conversion):
    for dataset in splits:
        lines = []
        for image, objects in zip(dataset.images, dataset.objects):
            lines.append(" ".join(map(str, [image.file_name, *objects.boxes[0]])))
            conversion.boxes += 1
        (folder / "things.txt").write_text("\\n".join(lines))
    return [folder for _ in splits]
'''


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "layouts").mkdir()
    (tmp_path / "layouts" / "things.py").write_text(LAYOUT, encoding="utf-8")
    monkeypatch.setattr(layouts, "__path__", [*layouts.__path__, str(tmp_path / "layouts")])
    known_layouts.cache_clear()
    yield
    known_layouts.cache_clear()


@pytest.mark.usefixtures("things")
def test_a_layout_of_one_file_is_read_checked_and_written(tmp_path: Path, detheads: Callable[..., Any]) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    Image.new("RGB", (40, 30)).save(folder / "a.png")
    (folder / "things.txt").write_text("a.png 1 2 11 12\n")
    dataset = read_dataset(folder)
    assert dataset.class_names == ["thing"]
    np.testing.assert_array_equal(dataset.objects[0].boxes, [[1, 2, 11, 12]])
    assert detheads("data", "validate", folder).code == 0
    assert detheads("data", "convert", folder, "--to", "coco", "-o", tmp_path / "coco").code == 0
    assert detheads("data", "convert", tmp_path / "coco", "--to", "things", "-o", tmp_path / "back").code == 0
    np.testing.assert_array_equal(read_dataset(tmp_path / "back").objects[0].boxes, dataset.objects[0].boxes)


@pytest.mark.usefixtures("things")
def test_a_folder_of_no_layout_is_told_what_each_one_needs(tmp_path: Path, detheads: Callable[..., Any]) -> None:
    refused = detheads("data", "info", tmp_path)
    assert refused.code == 1
    assert refused.err == (
        f"error: {tmp_path} is not a dataset folder: it needs annotations/instances_SPLIT.json (COCO), "
        "SPLIT/_annotations.coco.json (Roboflow), things.txt (things) or data.yaml with images/SPLIT (YOLO).\n"
    )


def test_an_unknown_layout_to_write_is_wrong_usage(tmp_path: Path, detheads: Callable[..., Any]) -> None:
    refused = detheads("data", "convert", tmp_path, "--to", "voc", "-o", tmp_path / "out")
    assert refused.code == 2
    assert "'voc' is not one of 'coco', 'roboflow', 'yolo'" in refused.err
