"""What reading keeps, clips, drops and maps."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detheads.data import list_splits, read_coco_json, read_dataset
from detheads.data.parsed import CLIPPED, NO_SIZE, NOT_FINITE, OUTSIDE
from detheads.foundation.errors import UserError
from tests.data.conftest import Document, document, write_coco

COUNTS = {
    ("coco-person", "train"): (1400, 5742, 1),
    ("coco-person", "val"): (350, 1456, 1),
    ("coco128", "train"): (96, 710, 80),
    ("coco128", "val"): (32, 229, 80),
    ("aquarium", "train"): (448, 3324, 7),
    ("aquarium", "val"): (127, 909, 7),
    ("aquarium", "test"): (63, 582, 7),  # two of its 584 boxes have no size
    ("bccd", "train"): (291, 3961, 3),
    ("bccd", "val"): (73, 927, 3),
    ("raccoon", "train"): (160, 176, 1),
    ("raccoon", "val"): (40, 41, 1),
}


@pytest.mark.parametrize(("name", "split"), COUNTS)
def test_real_datasets_have_their_published_counts(photographs: Path, name: str, split: str) -> None:
    dataset = read_dataset(photographs / name, split)
    boxes = sum(len(objects.boxes) for objects in dataset.objects)
    assert (len(dataset.images), boxes, len(dataset.categories)) == COUNTS[name, split]
    dropped = sum(count for reason, count in dataset.dropped.items() if reason != CLIPPED)
    assert dropped == (2 if split == "test" else 0)


def test_coco_boxes_come_back_as_xyxy_with_label_indices_sorted_by_category_id(
    coco_folder: Callable[..., Path],
) -> None:
    dataset = read_dataset(coco_folder())
    assert [(category.id, category.name) for category in dataset.categories] == [(4, "ant"), (9, "zebra")]
    assert [image.id for image in dataset.images] == [7, 3]
    np.testing.assert_array_equal(dataset.objects[0].boxes, [[1.5, 2, 11.5, 22], [5, 5, 11.25, 12]])
    assert dataset.objects[0].labels.tolist() == [1, 0]
    assert dataset.objects[0].area.tolist() == [150, 43.75]


def test_images_without_objects_are_kept(coco_folder: Callable[..., Path], yolo_folder: Path) -> None:
    for folder in (coco_folder(), yolo_folder):
        objects = read_dataset(folder).objects[1]
        assert objects.boxes.shape == (0, 4)
        assert objects.labels.shape == objects.crowd.shape == objects.area.shape == (0,)


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ([5, 5, 0, 4], NO_SIZE),
        ([5, 5, 4, -1], NO_SIZE),
        ([40, 5, 4, 4], OUTSIDE),
        ([-9, 5, 4, 4], OUTSIDE),
        ([5, math.nan, 4, 4], NOT_FINITE),
        ([5, 5, math.inf, 4], NOT_FINITE),
        ([5, 5, None, 4], NOT_FINITE),
    ],
)
def test_boxes_that_cannot_be_used_are_dropped_with_a_count(
    coco_folder: Callable[..., Path], bbox: list[float], reason: str
) -> None:
    dataset = read_dataset(coco_folder(lambda content: content["annotations"][0].update(bbox=bbox)))
    assert dataset.dropped == {reason: 1}
    np.testing.assert_array_equal(dataset.objects[0].boxes, [[5, 5, 11.25, 12]])


def test_boxes_partly_outside_are_clipped_and_counted(coco_folder: Callable[..., Path]) -> None:
    dataset = read_dataset(coco_folder(lambda content: content["annotations"][0].update(bbox=[-4, 20, 10, 20])))
    np.testing.assert_array_equal(dataset.objects[0].boxes[0], [0, 20, 6, 30])
    assert dataset.objects[0].area[0] == 60
    assert dataset.dropped == {CLIPPED: 1}


def test_rounding_at_the_border_is_clipped_without_a_count(coco_folder: Callable[..., Path]) -> None:
    dataset = read_dataset(coco_folder(lambda content: content["annotations"][0].update(bbox=[30, 20, 10.2, 10])))
    np.testing.assert_array_equal(dataset.objects[0].boxes[0], [30, 20, 40, 30])
    assert not dataset.dropped


def test_no_split_takes_the_picture_of_another(coco_folder: Callable[..., Path]) -> None:
    folder = coco_folder()
    coco_folder(split="val")
    shutil.rmtree(folder / "val")
    (folder / "val").mkdir()
    with pytest.raises(UserError, match="does not exist in"):
        read_dataset(folder, "val")


def test_boxes_that_are_all_misread_are_remarked_on_by_every_reader(coco_folder: Callable[..., Path]) -> None:
    def normalise(content: Document) -> None:
        for annotation in content["annotations"]:
            annotation["bbox"] = [0.25, 0.25, 0.5, 0.5]

    assert not read_dataset(coco_folder()).remarks
    (remark,) = read_dataset(coco_folder(normalise)).remarks
    assert "the boxes look normalised" in remark


def test_crowds_are_marked_and_a_missing_area_becomes_the_box_area(coco_folder: Callable[..., Path]) -> None:
    def change(content: Document) -> None:
        content["annotations"][0]["iscrowd"] = 1
        del content["annotations"][0]["area"]

    objects = read_dataset(coco_folder(change)).objects[0]
    assert objects.crowd.tolist() == [True, False]
    assert objects.area.tolist() == [200, 43.75]


def test_missing_sizes_are_read_from_the_files_as_displayed(coco_folder: Callable[..., Path]) -> None:
    def change(content: Document) -> None:
        for image in content["images"]:
            del image["width"]

    folder = coco_folder(change)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(folder / "train" / "a.jpg", exif=exif)
    assert [(image.width, image.height) for image in read_dataset(folder).images] == [(30, 40), (40, 30)]


def test_annotations_can_be_read_without_their_images(tmp_path: Path) -> None:
    (tmp_path / "copy.json").write_text(json.dumps(document()))
    dataset = read_coco_json(tmp_path / "copy.json", tmp_path / "gone", split="val")
    assert (dataset.name, dataset.split, len(dataset.images)) == ("gone", "val", 2)


@pytest.mark.parametrize("nested", [False, True])
def test_coco_images_lie_in_the_split_folder_or_below_images(coco_folder: Callable[..., Path], nested: bool) -> None:
    folder = coco_folder()
    if nested:
        (folder / "images").mkdir()
        (folder / "train").rename(folder / "images" / "train")
    assert all(image.path.is_file() for image in read_dataset(folder).images)


def _roboflow(folder: Path, content: Document, split: str = "valid") -> Path:
    write_coco(folder, content, split)
    (folder / "annotations" / f"instances_{split}.json").rename(folder / split / "_annotations.coco.json")
    (folder / "annotations").rmdir()
    return folder


def test_the_super_category_of_a_roboflow_export_is_left_out(tmp_path: Path) -> None:
    content = document()
    for category in content["categories"]:
        category["supercategory"] = "animals"
    content["categories"].append({"id": 0, "name": "animals", "supercategory": "none"})
    dataset = read_dataset(_roboflow(tmp_path / "export", content))
    assert dataset.class_names == ["ant", "zebra"]
    assert dataset.objects[0].labels.tolist() == [1, 0]


@pytest.mark.parametrize("used", [True, False])
def test_a_real_class_zero_of_a_roboflow_export_is_kept(tmp_path: Path, used: bool) -> None:
    content = document()
    for category in content["categories"]:
        category["supercategory"] = "animals" if used else "none"
    content["categories"].append({"id": 0, "name": "animals", "supercategory": "none"})
    if used:
        content["annotations"][0]["category_id"] = 0
    assert read_dataset(_roboflow(tmp_path / "export", content)).class_names == ["animals", "ant", "zebra"]


@pytest.mark.parametrize(("stored", "asked"), [("valid", "val"), ("val", "valid"), ("val", "val")])
def test_val_and_valid_name_the_same_split(tmp_path: Path, stored: str, asked: str) -> None:
    folder = _roboflow(tmp_path / "export", document(), stored)
    assert read_dataset(folder, asked).split == stored


def test_without_a_name_the_training_split_is_read(coco_folder: Callable[..., Path]) -> None:
    folder = coco_folder(split="val")
    assert read_dataset(folder).split == "val"
    coco_folder(split="train2017")
    assert list_splits(folder) == ["train2017", "val"]
    assert read_dataset(folder).split == "train2017"
    coco_folder(split="train2014")
    with pytest.raises(UserError, match="train2014, train2017, val"):
        read_dataset(folder)


def test_yolo_boxes_and_polygons_are_scaled_to_pixels(yolo_folder: Path) -> None:
    dataset = read_dataset(yolo_folder)
    assert [(category.id, category.name) for category in dataset.categories] == [(0, "ant"), (1, "no")]
    assert [(image.id, image.file_name, image.width, image.height) for image in dataset.images] == [
        (1, "a.png", 40, 20),
        (2, "b.png", 20, 40),
    ]
    np.testing.assert_allclose(dataset.objects[0].boxes, [[10, 8, 30, 12], [4, 4, 12, 12]])
    assert dataset.objects[0].labels.tolist() == [1, 0]


def test_yolo_names_may_be_a_mapping_with_gaps(yolo_folder: Path) -> None:
    (yolo_folder / "data.yaml").write_text("names: {1: zebra, 0: ant, 5: bee}\n")
    dataset = read_dataset(yolo_folder)
    assert [(category.id, category.name) for category in dataset.categories] == [(0, "ant"), (1, "zebra"), (5, "bee")]


def test_yolo_splits_may_hold_their_images_and_labels(yolo_folder: Path) -> None:
    before = read_dataset(yolo_folder)
    (yolo_folder / "train").mkdir()
    for part in ("images", "labels"):
        (yolo_folder / part / "train").rename(yolo_folder / "train" / part)
        (yolo_folder / part).rmdir()
    after = read_dataset(yolo_folder)
    np.testing.assert_array_equal(after.objects[0].boxes, before.objects[0].boxes)


def test_yolo_boxes_refer_to_the_displayed_frame(yolo_folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    (yolo_folder / "images" / "train" / "a.png").unlink()
    Image.new("RGB", (40, 20)).save(yolo_folder / "images" / "train" / "a.jpg", exif=exif)
    dataset = read_dataset(yolo_folder)
    assert (dataset.images[0].width, dataset.images[0].height) == (20, 40)
    np.testing.assert_allclose(dataset.objects[0].boxes[0], [5, 16, 15, 24])


def test_unicode_and_spaced_paths_work(tmp_path: Path) -> None:
    content = document()
    content["images"][0]["file_name"] = "Bär ünd 熊/a 1.jpg"
    folder = write_coco(tmp_path / "mein Datensatz 数据", content)
    (folder / "train" / "Bär ünd 熊").mkdir()
    (folder / "train" / "a.jpg").rename(folder / "train" / "Bär ünd 熊" / "a 1.jpg")
    dataset = read_dataset(folder)
    assert dataset.name == "mein Datensatz 数据"
    assert dataset.images[0].path.is_file()


def test_images_may_be_links_to_another_folder_but_names_may_not_climb_out(
    coco_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = coco_folder()
    original = (folder / "train" / "a.jpg").rename(tmp_path / "elsewhere.jpg")
    (folder / "train" / "a.jpg").symlink_to(original)
    assert read_dataset(folder).images[0].path.resolve() == original
    climbing = coco_folder(lambda content: content["images"][0].update(file_name="../../elsewhere.jpg"))
    with pytest.raises(UserError, match="leaves its folder"):
        read_dataset(climbing)


def test_what_cannot_be_used_is_left_out_on_request_and_listed(coco_folder: Callable[..., Path]) -> None:
    def change(content: Document) -> None:
        content["annotations"][0]["category_id"] = 77
        content["images"].append({"id": 50, "file_name": "../outside.jpg", "width": 4, "height": 4})

    folder = coco_folder(change)
    with pytest.raises(UserError, match=r"1 more: .*--skip-bad"):
        read_dataset(folder)
    dataset = read_dataset(folder, skip_bad=True)
    assert [len(objects.boxes) for objects in dataset.objects] == [1, 0]
    assert list(dataset.skipped) == ["image 50", "annotation 1"]


def test_a_fault_of_the_whole_file_is_not_left_out(coco_folder: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="'categories' is empty"):
        read_dataset(coco_folder(lambda content: content.update(categories=[], annotations=[])), skip_bad=True)


@pytest.mark.parametrize(
    ("size", "cause"), [((30, 40), "did not apply its EXIF orientation"), ((41, 30), "restore the picture")]
)
def test_a_picture_of_another_size_than_annotated_is_refused_by_what_reads_it(
    coco_folder: Callable[..., Path], detheads: Callable[..., Any], tmp_path: Path, size: tuple[int, int], cause: str
) -> None:
    folder = coco_folder()
    Image.new("RGB", size).save(folder / "train" / "b.jpg")
    for command in (["convert", "--to", "yolo"], ["draw"], ["augment"]):
        finished = detheads("data", command[0], folder, *command[1:], "-o", tmp_path / command[0])
        assert (finished.code, finished.result) == (1, "")
        assert f"b.jpg has {size[0]}x{size[1]} pixels, its annotation says 40x30" in finished.err
        assert cause in finished.err
