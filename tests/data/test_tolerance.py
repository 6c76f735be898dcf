"""What an annotation file itself can answer is repaired with a remark; what it cannot is left out on request."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detheads.data import read_dataset
from detheads.data.coco_values import box_of
from detheads.foundation.errors import UserError
from tests.data.conftest import Document, write_coco

Change = Callable[[Document], object]


def _images(**values: Any) -> Change:
    return lambda content: [image.update(values) for image in content["images"]]


def _called(name: str) -> Change:
    return lambda content: content["images"][0].update(file_name=name)


def _first(**values: Any) -> Change:
    return lambda content: content["annotations"][0].update(values)


def _as_text(content: Document) -> None:
    for image in content["images"]:
        image.update(id=str(image["id"]), width="40")
    for annotation in content["annotations"]:
        annotation.update(category_id=f" {annotation['category_id']}", image_id=float(annotation["image_id"]))
    content["annotations"][0].update(bbox=["1.5", "2", "10", "20"], iscrowd="0")


def _two_spellings(content: Document) -> None:
    content["categories"].append({"id": "9", "name": "zebra"})
    content["annotations"][0]["category_id"] = "9"


def _named_ids(content: Document) -> None:
    for image in content["images"]:
        image["id"] = f"img-{image['id']}"
    for annotation in content["annotations"]:
        annotation["image_id"] = "img-7"
    content["categories"][0]["id"] = content["annotations"][0]["category_id"] = "zebra"


def _segmented(segmentation: Any, **values: Any) -> Change:
    return _first(bbox=None, segmentation=segmentation, **values)


SQUARE = [[1.5, 2, 11.5, 2, 11.5, 22], [1.5, 22, 3, 4, 5, 6]]
REPAIRED: dict[str, tuple[Change, str]] = {
    "no size": (lambda content: content["images"][0].pop("width"), "the size of its file is taken"),
    "null size": (_images(width=None, height=None), "(2 of this kind)"),
    "zero size": (_images(height=0), "the size of its file is taken"),
    "negative size": (_images(height=-30), "the size of its file is taken"),
    "numbers as text": (_as_text, "read as a number"),
    "one class in two spellings": (_two_spellings, "read as a number"),
    "box of polygons": (_segmented(SQUARE), "that of its segmentation is taken"),
    "box of pairs": (_segmented([[[1.5, 2], [11.5, 22], [3, 3]]]), "that of its segmentation is taken"),
    "empty box": (_first(bbox=[], segmentation=SQUARE), "that of its segmentation is taken"),
    "box of zeros": (_first(bbox=[0, 0, 0, 0], segmentation=SQUARE), "that of its segmentation is taken"),
    "area of text": (_first(area="unknown"), "that of its box is taken"),
    "area zero": (_first(area=0), "that of its box is taken"),
    "same image again": (lambda content: content["images"].append(content["images"][0]), "is listed twice"),
    "same annotation again": (
        lambda content: content["annotations"].append(dict(content["annotations"][0])),
        "word for word",
    ),
    "one id for two": (_first(id=2), "the id of two annotations; both are read"),
    "backslashes": (_called("train\\a.jpg"), "was found as 'a.jpg'"),
    "folder that is gone": (_called("/home/me/set/a.jpg"), "was found as 'a.jpg'"),
    "drive of Windows": (_called("C:\\set\\a.jpg"), "was found as 'a.jpg'"),
    "climbing to the file": (_called("../train/a.jpg"), "was found as 'a.jpg'"),
    "another case": (_called("A.JPG"), "was found as 'a.jpg'"),
    "another ending of JPEG": (_called("a.jpeg"), "was found as 'a.jpg'"),
    "escapes of an address": (_called("/data/local-files/?d=set%2Fa.jpg"), "was found as 'a.jpg'"),
}


@pytest.mark.parametrize("case", REPAIRED)
def test_what_the_file_can_answer_is_repaired_with_a_remark(coco_folder: Callable[..., Path], case: str) -> None:
    change, remark = REPAIRED[case]

    dataset = read_dataset(coco_folder(change))
    assert (dataset.images[0].file_name, dataset.images[0].width, dataset.images[0].height) == ("a.jpg", 40, 30)
    np.testing.assert_allclose(dataset.objects[0].boxes, [[1.5, 2, 11.5, 22], [5, 5, 11.25, 12]])
    assert [dataset.class_names[label] for label in dataset.objects[0].labels] == ["zebra", "ant"]
    assert not dataset.objects[0].crowd.any()
    assert dataset.objects[0].area[0] == (150 if "area" not in case else 200)
    assert any(remark in sentence for sentence in dataset.remarks)


def test_ids_that_are_names_are_numbered_in_their_order(coco_folder: Callable[..., Path]) -> None:
    dataset = read_dataset(coco_folder(_named_ids))
    assert [(image.id, image.file_name) for image in dataset.images] == [(1, "a.jpg"), (2, "b.jpg")]
    assert [(category.id, category.name) for category in dataset.categories] == [(1, "zebra"), (4, "ant")]
    assert dataset.objects[0].labels.tolist() == [0, 1]
    assert any("ids of images are text ('img-7')" in remark for remark in dataset.remarks)


@pytest.mark.parametrize(
    ("flags", "crowd"),
    [
        ({"iscrowd": "0"}, False),
        ({"iscrowd": "1"}, True),
        ({"iscrowd": "false"}, False),
        ({"iscrowd": None}, False),
        ({"iscrowd": 0.0}, False),
        ({"iscrowd": True}, True),
        ({"ignore": 1}, True),
        ({"ignore": "0"}, False),
    ],
)
def test_flags_are_read_as_they_are_meant(coco_folder: Callable[..., Path], flags: Document, crowd: bool) -> None:
    assert read_dataset(coco_folder(_first(**flags))).objects[0].crowd.tolist() == [crowd, False]


def test_a_file_without_annotations_is_a_split_without_objects(coco_folder: Callable[..., Path]) -> None:
    dataset = read_dataset(coco_folder(lambda content: content.pop("annotations")))
    assert [len(objects.boxes) for objects in dataset.objects] == [0, 0]
    assert "there is no list 'annotations'" in dataset.remarks[0]


def test_the_objects_of_an_image_with_two_ids_are_put_together_once(coco_folder: Callable[..., Path]) -> None:
    def change(content: Document) -> None:
        content["images"].append(content["images"][0] | {"id": 70})
        first = content["annotations"][0]
        content["annotations"] += [
            first | {"id": 8, "image_id": 70},
            first | {"id": 9, "image_id": 70, "category_id": 4},
        ]

    dataset = read_dataset(coco_folder(change))
    assert [image.file_name for image in dataset.images] == ["a.jpg", "b.jpg"]
    assert dataset.objects[0].labels.tolist() == [1, 0, 0]


def test_two_names_never_become_one_file(coco_folder: Callable[..., Path]) -> None:
    folder = coco_folder(lambda content: content["images"][1].update(file_name="A.jpg"))
    with pytest.raises(UserError, match=r"'A.jpg' does not exist in .*, and 'a.jpg' is the image 'a.jpg'"):
        read_dataset(folder)
    assert list(read_dataset(folder, skip_bad=True).skipped) == ["image 3"]


def test_a_bare_name_that_several_folders_have_is_not_guessed(coco_folder: Callable[..., Path]) -> None:
    folder = coco_folder()
    for part in ("one", "two"):
        (folder / "train" / part).mkdir()
        Image.new("RGB", (40, 30)).save(folder / "train" / part / "a.jpg")
    (folder / "train" / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"'a.jpg' may be 'one/a.jpg' or 'two/a.jpg'"):
        read_dataset(folder)
    (folder / "train" / "two" / "a.jpg").unlink()
    assert read_dataset(folder).images[0].path == folder / "train" / "one" / "a.jpg"


def test_accents_may_be_composed_or_not(coco_folder: Callable[..., Path]) -> None:
    folder = coco_folder(lambda content: content["images"][0].update(file_name="Ba\u0308r.jpg"))
    (folder / "train" / "a.jpg").rename(folder / "train" / "B\u00e4r.jpg")
    assert read_dataset(folder).images[0].file_name == "B\u00e4r.jpg"


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
def test_a_byte_order_mark_does_not_count(coco_folder: Callable[..., Path], mark: bytes) -> None:
    path = coco_folder() / "annotations" / "instances_train.json"
    path.write_bytes(mark + path.read_bytes())
    assert len(read_dataset(path.parent.parent).images) == 2


def test_masks_have_the_box_that_pycocotools_finds() -> None:
    masks = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(3)
    for height, width in [(7, 9), (12, 5), (1, 8)]:
        for share in (0.02, 0.1, 0.5):
            mask = np.asfortranarray(random.random((height, width)) < share, dtype=np.uint8)
            encoded = masks.encode(mask)
            x, y, across, down = masks.toBbox(encoded)
            expected = [x, y, x + across, y + down] if mask.any() else None
            flat = mask.flatten(order="F")
            changes = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
            runs = np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()
            assert box_of({"size": [height, width], "counts": runs}) == expected
            counts = encoded["counts"].decode()
            assert box_of({"size": [height, width], "counts": counts}) == expected


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        [[1, 2]],
        [[1, 2, 3, "x", 5, 6]],
        {},
        {"size": [0, 0], "counts": [1, 2]},
        {"size": [3, 3], "counts": [1e99]},
    ],
)
def test_a_segmentation_without_a_box_is_none(segmentation: Any) -> None:
    assert box_of(segmentation) is None


def test_every_command_that_reads_a_dataset_says_what_was_repaired_and_left_out(
    coco_folder: Callable[..., Path], detheads: Callable[..., Any]
) -> None:
    def change(content: Document) -> None:
        content["images"][0]["width"] = 0
        content["annotations"][1]["bbox"] = None

    folder = coco_folder(change)
    assert detheads("data", "info", folder).code == 1
    finished = detheads("data", "info", folder, "--skip-bad", "--json")
    assert (finished.code, json.loads(finished.out)["boxes"]) == (0, 1)
    assert "image 7 has no usable size; the size of its file is taken." in finished.err
    assert "left out 1 that cannot be used:\n  annotation 2: annotation 2 has no 'bbox'" in finished.err


def test_class_zero_of_a_roboflow_export_is_kept_in_all_splits_when_one_uses_it(tmp_path: Path) -> None:
    for split, used in (("train", True), ("valid", False)):
        folder = tmp_path / split
        content = {
            "images": [{"id": 0, "file_name": "a.jpg", "width": 40, "height": 30}],
            "annotations": [{"id": 0, "image_id": 0, "category_id": 0 if used else 1, "bbox": [1, 1, 9, 9]}],
            "categories": [
                {"id": 0, "name": "animals", "supercategory": "none"},
                {"id": 1, "name": "ant", "supercategory": "animals"},
            ],
        }
        write_coco(folder, content, ".")
        (folder / "annotations" / "instances_..json").rename(folder / "_annotations.coco.json")
    assert [read_dataset(tmp_path, split).class_names for split in ("train", "valid")] == [["animals", "ant"]] * 2


def test_drawing_says_when_pictures_have_almost_one_grey(
    coco_folder: Callable[..., Path], detheads: Callable[..., Any], tmp_path: Path
) -> None:
    folder = coco_folder(lambda content: content["images"][0].update(file_name="a.png"))
    grey = np.linspace(0, 4095, 1200).round().astype(np.uint16).reshape(30, 40)
    Image.fromarray(grey).save(folder / "train" / "a.png")
    finished = detheads("data", "draw", folder, "-o", tmp_path / "drawn")
    assert finished.code == 0
    assert "a.png has 16-bit pixels from 0 to 4095, almost one grey in 8 bits" in finished.err
