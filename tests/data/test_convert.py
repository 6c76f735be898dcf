"""Round trips through the three layouts."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detheads.data import Dataset, read_dataset
from detheads.data.convert import convert_dataset
from detheads.foundation.errors import UserError
from tests.data.conftest import Document


def _by_name(dataset: Dataset) -> dict[str, tuple[bytes, list[str], list[list[float]]]]:
    """Content, class names and boxes of each image, without the ids that a layout may change."""
    return {
        image.file_name: (
            image.path.read_bytes(),
            [dataset.class_names[label] for label in objects.labels],
            np.round(objects.boxes, 9).tolist(),
        )
        for image, objects in zip(dataset.images, dataset.objects, strict=True)
    }


@pytest.mark.parametrize("layouts", [("yolo", "coco"), ("roboflow", "yolo", "coco"), ("coco", "roboflow")])
def test_boxes_survive_a_round_trip(coco_folder: Callable[..., Path], tmp_path: Path, layouts: tuple[str, ...]) -> None:
    original = read_dataset(coco_folder())
    dataset = original
    for step, layout in enumerate(layouts):
        target = tmp_path / f"step {step} ü"
        convert_dataset([dataset], target, layout)
        dataset = read_dataset(target)
    assert _by_name(dataset) == _by_name(original)


@pytest.mark.parametrize("layout", ["coco", "roboflow"])
def test_json_layouts_keep_ids_crowds_and_areas(coco_folder: Callable[..., Path], tmp_path: Path, layout: str) -> None:
    original = read_dataset(coco_folder(lambda content: content["annotations"][0].update(iscrowd=1)))
    convert_dataset([original], tmp_path / "out", layout)
    copy = read_dataset(tmp_path / "out")
    assert copy.categories == original.categories
    assert [image.id for image in copy.images] == [image.id for image in original.images]
    assert copy.coco_json()["annotations"] == original.coco_json()["annotations"]


def test_a_real_dataset_survives_yolo_and_back(photographs: Path, tmp_path: Path) -> None:
    original = read_dataset(photographs / "bccd", "val")
    convert_dataset([original], tmp_path / "yolo", "yolo", link=True)
    convert_dataset([read_dataset(tmp_path / "yolo")], tmp_path / "coco", "coco", link=True)
    assert _by_name(read_dataset(tmp_path / "coco")) == _by_name(original)


def test_all_splits_are_written_together(
    coco_folder: Callable[..., Path], detheads: Callable[..., Any], tmp_path: Path
) -> None:
    coco_folder(split="val")
    finished = detheads("data", "convert", coco_folder(), "--to", "roboflow", "-o", tmp_path / "out", "--json")
    assert json.loads(finished.out)["images"] == 4
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["train", "valid"]


def test_crowds_are_left_out_of_yolo_with_a_count(coco_folder: Callable[..., Path], tmp_path: Path) -> None:
    dataset = read_dataset(coco_folder(lambda content: content["annotations"][0].update(iscrowd=1)))
    conversion = convert_dataset([dataset], tmp_path / "out", "yolo")
    assert (conversion.boxes, conversion.left_out) == (1, {"crowd": 1})
    assert len(read_dataset(tmp_path / "out").objects[0].boxes) == 1


def test_linked_images_share_their_content_with_the_source(coco_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = coco_folder()
    convert_dataset([read_dataset(folder)], tmp_path / "out", "coco", link=True)
    assert (folder / "train" / "a.jpg").samefile(tmp_path / "out" / "train" / "a.jpg")


def test_images_are_copied_where_links_are_impossible(
    coco_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    original = read_dataset(coco_folder())
    convert_dataset([original], tmp_path / "out", "coco", link=True)
    assert _by_name(read_dataset(tmp_path / "out")) == _by_name(original)


def test_a_missing_image_leaves_nothing_behind(coco_folder: Callable[..., Path], tmp_path: Path) -> None:
    dataset = read_dataset(coco_folder())
    dataset.images[1].path.unlink()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"b\.jpg does not exist"):
        convert_dataset([dataset], tmp_path / "out", "yolo")
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_with_content_is_not_touched(
    coco_folder: Callable[..., Path], detheads: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    finished = detheads("data", "convert", coco_folder(), "-o", tmp_path / "out")
    assert (finished.code, "is not empty" in finished.err) == (1, True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious.txt"]


def test_an_empty_folder_is_filled(coco_folder: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    convert_dataset([read_dataset(coco_folder())], tmp_path / "out", "coco")
    assert len(read_dataset(tmp_path / "out").images) == 2


def test_two_images_that_would_share_a_label_file_are_refused(coco_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = coco_folder(lambda content: content["images"][1].update(file_name="a.png"))
    Image.new("RGB", (40, 30)).save(folder / "train" / "a.png")
    with pytest.raises(UserError, match=r"share the YOLO label file a\.txt"):
        convert_dataset([read_dataset(folder)], tmp_path / "out", "yolo")


def test_splits_whose_classes_have_other_numbers_or_are_fewer_are_united(
    coco_folder: Callable[..., Path], tmp_path: Path
) -> None:
    def fewer(content: Document) -> None:
        content["categories"] = [{"id": 1, "name": "zebra"}]
        content["annotations"] = [content["annotations"][0] | {"category_id": 1}]

    coco_folder(fewer, split="val")
    folder = coco_folder()
    parts = [read_dataset(folder, name) for name in ("val", "train")]
    convert_dataset(parts, tmp_path / "out", "coco")
    val, train = (read_dataset(tmp_path / "out", name) for name in ("val", "train"))
    assert val.categories == train.categories == parts[1].categories
    assert [_by_name(val), _by_name(train)] == [_by_name(parts[0]), _by_name(parts[1])]


def test_splits_of_different_classes_are_refused(coco_folder: Callable[..., Path], tmp_path: Path) -> None:
    def rename(content: Document) -> None:
        content["categories"][0]["name"] = "horse"

    coco_folder(rename, split="val")
    folder = coco_folder()
    with pytest.raises(UserError, match="train, val have different classes"):
        convert_dataset([read_dataset(folder, "train"), read_dataset(folder, "val")], tmp_path / "out", "coco")
