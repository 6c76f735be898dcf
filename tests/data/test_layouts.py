"""A further layout is one file: it is read, refused and written like those that are there."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detheads.data import layouts, list_splits, read_dataset
from detheads.data.layout import known_layouts
from detheads.foundation.errors import UserError

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


BOX = [10, 8, 20, 4]
ROW = "0 0.5 0.5 0.5 0.2\n"
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 20}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": BOX, "area": 80, "iscrowd": 0}],
    "categories": [{"id": 3, "name": "ant"}],
}


def _coco(name: str = "a.png") -> str:
    return json.dumps(COCO | {"images": [COCO["images"][0] | {"file_name": name}]})


# Files that public tools write: what lies in a folder ('' is a picture of 40x20), and the split it is called.
WRITTEN: dict[str, tuple[dict[str, str], str]] = {
    "COCO": ({"annotations/instances_train.json": _coco(), "train/a.png": ""}, "train"),
    "COCO by year": ({"annotations/instances_train2017.json": _coco(), "images/train2017/a.png": ""}, "train2017"),
    "COCO keypoints": ({"annotations/person_keypoints_val.json": _coco(), "val/a.png": ""}, "val"),
    "COCO beside captions": (
        {"annotations/instances_val.json": _coco(), "annotations/captions_val.json": "{", "val/a.png": ""},
        "val",
    ),
    "train.json": ({"annotations/train.json": _coco(), "train/a.png": ""}, "train"),
    "train.json at the top": ({"train.json": _coco(), "images/a.png": ""}, "train"),
    "folder in the name": ({"train.json": _coco("train/a.png"), "train/a.png": ""}, "train"),
    "val_annotations.json": ({"val_annotations.json": _coco(), "val/a.png": ""}, "val"),
    "capital Annotations": ({"Annotations/train.json": _coco(), "JPEGImages/a.png": ""}, "train"),
    "CVAT": ({"annotations/instances_default.json": _coco(), "images/a.png": ""}, "default"),
    "CVAT with subsets": ({"annotations/instances_Train.json": _coco(), "images/Train/a.png": ""}, "Train"),
    "Label Studio": ({"result.json": _coco("images/a.png"), "images/a.png": ""}, "all"),
    "FiftyOne": ({"labels.json": _coco(), "data/a.png": ""}, "all"),
    "FiftyOne with splits": ({"train/labels.json": _coco(), "train/data/a.png": ""}, "train"),
    "Labelme": ({"annotations.json": _coco("JPEGImages/a.png"), "JPEGImages/a.png": ""}, "all"),
    "beside the images": ({"annotations.json": _coco(), "a.png": ""}, "all"),
    "split with its own file": ({"valid/annotations.json": _coco(), "valid/images/a.png": ""}, "valid"),
    "Roboflow": ({"valid/_annotations.coco.json": _coco(), "valid/a.png": ""}, "valid"),
    "Roboflow without splits": ({"_annotations.coco.json": _coco(), "a.png": ""}, "all"),
    "Roboflow YOLO": (
        {
            "data.yaml": "train: ../train/images\nnc: 1\nnames: ['ant']\n",
            "train/images/a.png": "",
            "train/labels/a.txt": ROW,
        },
        "train",
    ),
    "Roboflow Darknet": ({"train/_darknet.labels": "ant\n", "train/a.png": "", "train/a.txt": ROW}, "train"),
    "Ultralytics": (
        {
            "set.yaml": "path: ../datasets/x\ntrain: images/train\nnames:\n  0: ant\n",
            "images/train/a.png": "",
            "labels/train/a.txt": ROW,
        },
        "train",
    ),
    "YOLO beside": ({"data.yaml": "names: [ant]\ntrain: train\n", "train/a.png": "", "train/a.txt": ROW}, "train"),
    "CVAT Ultralytics": (
        {
            "data.yaml": "path: .\ntrain: train.txt\nnames: {0: ant}\n",
            "train.txt": "data/images/train/a.png\n",
            "images/train/a.png": "",
            "labels/train/a.txt": ROW,
        },
        "train",
    ),
    "CVAT Darknet": (
        {
            "obj.data": "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
            "obj.names": "ant\n",
            "train.txt": "data/obj_train_data/a.png\n",
            "obj_train_data/a.png": "",
            "obj_train_data/a.txt": ROW,
        },
        "train",
    ),
    "Datumaro Darknet": (
        {
            "obj.data": "classes = 1\nval = data/val.txt\nnames = data/obj.names\nbackup = backup/\n",
            "obj.names": "ant\n",
            "val.txt": "data/obj_val_data/a.png\n",
            "obj_val_data/a.png": "",
            "obj_val_data/a.txt": ROW,
        },
        "val",
    ),
    "Label Studio YOLO": (
        {
            "classes.txt": "ant\n",
            "notes.json": '{"categories": [], "info": {}}',
            "images/a.png": "",
            "labels/a.txt": ROW,
        },
        "all",
    ),
    "labelImg": ({"classes.txt": "ant\n", "a.png": "", "a.txt": ROW}, "all"),
}


@pytest.mark.parametrize("tool", WRITTEN)
def test_what_public_tools_write_is_read(tmp_path: Path, tool: str) -> None:
    files, split = WRITTEN[tool]
    for name, content in files.items():
        path = tmp_path / "export" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20)).save(path) if not content else path.write_text(content)
    assert list_splits(tmp_path / "export") == [split]
    dataset = read_dataset(tmp_path / "export")
    assert (dataset.name, dataset.split, dataset.class_names) == ("export", split, ["ant"])
    np.testing.assert_allclose(dataset.objects[0].boxes, [[10, 8, 30, 12]])
    assert [image.path.is_file() for image in dataset.images] == [True]
    assert not Path(dataset.images[0].file_name).is_absolute() and ".." not in dataset.images[0].file_name


def test_several_files_share_a_folder_of_images(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(_coco(f"{split}.png"))
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (40, 20)).save(tmp_path / "images" / f"{split}.png")
    for split in ("train", "val"):
        assert [image.path.name for image in read_dataset(tmp_path, split).images] == [f"{split}.png"]


AMBIGUOUS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "two layouts": (
        {"annotations/instances_train.json": _coco(), "train/a.png": "", "data.yaml": "names: [ant]\ntrain: train\n"},
        ("coco by", "instances_train.json", "yolo by", "data.yaml", "give one of these files"),
    ),
    "two files of a split": (
        {"train.json": _coco(), "annotations/train.json": _coco(), "train/a.png": ""},
        ("train.json and", "may both be the annotations of split 'train'"),
    ),
    "two files of no split": (
        {"cats.json": _coco(), "dogs.json": _coco(), "images/a.png": ""},
        ("several annotation files (cats.json, dogs.json)",),
    ),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_an_ambiguous_folder_is_refused_with_the_candidates_of_which_one_may_be_given(
    tmp_path: Path, case: str
) -> None:
    files, sentences = AMBIGUOUS[case]
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20)).save(path) if not content else path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_dataset(tmp_path)
    assert all(sentence in str(caught.value) for sentence in sentences)
    dataset = read_dataset(tmp_path / next(iter(files)))
    np.testing.assert_allclose(dataset.objects[0].boxes, [[10, 8, 30, 12]])


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
