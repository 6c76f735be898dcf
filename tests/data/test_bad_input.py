"""Each mistake in a dataset gets its own sentence and exit code 1."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detheads.data import list_splits, read_dataset
from detheads.foundation.errors import UserError
from tests.data.conftest import Document, write_coco


def _change(key: str, index: int, **values: Any) -> Callable[[Document], object]:
    return lambda content: content[key][index].update(values)


def _remove(key: str, index: int, field: str) -> Callable[[Document], object]:
    return lambda content: content[key][index].pop(field)


BROKEN_COCO: dict[str, tuple[Callable[[Document], object], str]] = {
    "no images": (lambda content: content.update(images=[], annotations=[]), "holds no images"),
    "no categories": (lambda content: content.update(categories=[], annotations=[]), "'categories' is empty"),
    "no list": (lambda content: content.pop("images"), "has no list 'images'"),
    "another list": (lambda content: content.update(annotations={}), "has no list 'annotations'"),
    "entry is text": (lambda content: content["images"].append("c.jpg"), "entry 2 of 'images' is not an object"),
    "image without name": (_remove("images", 1, "file_name"), "image 3 has no 'file_name'"),
    "category without id": (_remove("categories", 0, "id"), "entry 0 of 'categories' has no 'id'"),
    "annotation without box": (_remove("annotations", 0, "bbox"), "annotation 1 has no 'bbox'"),
    "list as id": (_change("images", 0, id=[7]), "an id must be a whole number or a text"),
    "half an id": (_change("images", 0, id=7.5), "an id must be a whole number or a text"),
    "duplicate image": (_change("images", 0, id=3), "the image id 3 is both 'a.jpg' and 'b.jpg'"),
    "duplicate category": (_change("categories", 0, id=4), "the category id 4 is both 'zebra' and 'ant'"),
    "unknown category": (_change("annotations", 0, category_id=5), "annotation 1 has the category id 5"),
    "unknown image": (_change("annotations", 1, image_id=99), "annotation 2 has the image id 99"),
    "three numbers": (_change("annotations", 0, bbox=[1, 2, 3]), "expected four numbers"),
    "text in box": (_change("annotations", 0, bbox=[1, 2, 3, "four"]), "expected four numbers"),
    "text as flag": (_change("annotations", 0, iscrowd="maybe"), "annotation 1 has iscrowd 'maybe'"),
    "missing picture": (_change("images", 0, file_name="b1.jpg"), "'b1.jpg' does not exist in"),
    "near name": (_change("images", 0, file_name="aa.jpg"), "Did you mean 'a.jpg'?"),
    "leaves the folder": (_change("images", 0, file_name="../../secret.jpg"), "leaves its folder"),
    "absolute path": (_change("images", 0, file_name="/etc/passwd"), "leaves its folder"),
    "null byte": (_change("images", 0, file_name="a\0.jpg"), "does not exist"),
    "long name": (_change("images", 0, file_name="a" * 5000), "does not exist"),
}


@pytest.mark.parametrize("case", BROKEN_COCO)
def test_a_broken_coco_file_is_refused_in_one_sentence(
    coco_folder: Callable[..., Path], detheads: Callable[..., Any], case: str
) -> None:
    change, sentence = BROKEN_COCO[case]
    finished = detheads("data", "info", coco_folder(change), "--json")
    assert finished.code == 1
    assert finished.result == ""
    assert sentence in finished.err
    assert "instances_train.json" in finished.err
    assert finished.err.startswith("error: ") and finished.err.count("\n") == 1


@pytest.mark.parametrize("text", ["{", "", "[]", '"images"', '{"images": "many"}', "\udcff"])
def test_a_file_that_is_no_coco_json_is_refused(tmp_path: Path, detheads: Callable[..., Any], text: str) -> None:
    folder = write_coco(tmp_path / "set", "")
    (folder / "annotations" / "instances_train.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    finished = detheads("data", "info", folder)
    assert finished.code == 1
    assert "instances_train.json" in finished.err
    assert "Traceback" not in finished.err


def test_further_mistakes_are_counted(coco_folder: Callable[..., Path], detheads: Callable[..., Any]) -> None:
    def change(content: Document) -> None:
        for annotation in content["annotations"]:
            annotation["category_id"] = 77

    assert "(1 more: see 'detheads data validate'; --skip-bad" in detheads("data", "info", coco_folder(change)).err


BROKEN_YOLO: dict[str, tuple[str, str | None, str]] = {
    "too few numbers": ("labels/train/a.txt", "1 0.5 0.5 0.5\n", "line 1 is '1 0.5 0.5 0.5'"),
    "no numbers": ("labels/train/a.txt", "1 0.5 0.5 0.5 0.2\nant 1 1 1 1\n", "line 2 is 'ant 1 1 1 1'"),
    "unknown class": ("labels/train/a.txt", "2 0.5 0.5 0.5 0.2\n", "line 1 has the class 2"),
    "no yaml": ("data.yaml", "names: [a\n", "is not readable YAML"),
    "no names": ("data.yaml", "nc: 2\n", "no usable 'names'"),
    "nested names": ("data.yaml", "names: [[a], b]\n", "no usable 'names'"),
    "named index": ("data.yaml", "names: {x: a}\n", "names a class 'x'"),
    "wrong count": ("data.yaml", "nc: 3\nnames: [a, b]\n", "says nc: 3 but names 2 classes"),
    "no image": ("images/train/b.png", "this is text", "b.png: the file is not an image"),
    "no labels": ("labels", None, "labels/train is missing"),
}


@pytest.mark.parametrize("case", BROKEN_YOLO)
def test_a_broken_yolo_folder_is_refused_in_one_sentence(
    yolo_folder: Path, detheads: Callable[..., Any], case: str
) -> None:
    name, content, sentence = BROKEN_YOLO[case]
    if content is None:
        shutil.rmtree(yolo_folder / name)
    else:
        (yolo_folder / name).write_text(content)
    finished = detheads("data", "info", yolo_folder)
    assert finished.code == 1
    assert sentence in finished.err
    assert finished.err.count("\n") == 1


@pytest.mark.parametrize("entry", ["{text}", "[{text}]", "{text}.txt", "../{text}"])
@pytest.mark.parametrize("key", ["names", "path", "train", "val"])
@pytest.mark.parametrize("text", ["n" * 300, "n" * 5000, "a\\0b"])
def test_settings_that_cannot_be_names_of_files_are_mistakes_of_the_user(
    yolo_folder: Path, key: str, entry: str, text: str
) -> None:
    settings = {"names": "[ant, bee]", "train": "images/train", key: entry.format(text=f'"{text}"')}
    (yolo_folder / "data.yaml").write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
    with contextlib.suppress(UserError):
        for name in list_splits(yolo_folder):
            read_dataset(yolo_folder, name)


def test_a_yolo_split_without_images_is_refused(yolo_folder: Path, detheads: Callable[..., Any]) -> None:
    for path in (yolo_folder / "images" / "train").iterdir():
        path.unlink()
    finished = detheads("data", "info", yolo_folder)
    assert (finished.code, "holds no images" in finished.err) == (1, True)


def test_a_missing_image_folder_is_named(coco_folder: Callable[..., Path], detheads: Callable[..., Any]) -> None:
    folder = coco_folder()
    shutil.rmtree(folder / "train")
    finished = detheads("data", "info", folder)
    assert (finished.code, f"{folder / 'train'} is missing" in finished.err) == (1, True)


@pytest.mark.parametrize(("make", "sentence"), [(True, "is not a dataset folder"), (False, "is not a folder")])
def test_a_folder_that_is_no_dataset_is_refused(
    tmp_path: Path, detheads: Callable[..., Any], make: bool, sentence: str
) -> None:
    folder = tmp_path / "some folder"
    if make:
        folder.mkdir()
    finished = detheads("data", "info", folder)
    assert (finished.code, sentence in finished.err) == (1, True)


def test_an_unknown_split_is_answered_with_the_known_ones(
    coco_folder: Callable[..., Path], detheads: Callable[..., Any]
) -> None:
    coco_folder(split="val")
    finished = detheads("data", "info", coco_folder(), "--split", "test")
    assert (finished.code, "no split 'test'; it has train, val" in finished.err) == (1, True)


def test_info_prints_one_json_object(coco_folder: Callable[..., Path], detheads: Callable[..., Any]) -> None:
    result = json.loads(detheads("data", "info", coco_folder(), "--json").out)
    assert (result["images"], result["boxes"], result["images_without_objects"]) == (2, 2, 1)
    assert result["classes"] == [
        {"id": 4, "name": "ant", "boxes": 1, "images": 1},
        {"id": 9, "name": "zebra", "boxes": 1, "images": 1},
    ]
    assert result["box_width"] == {"min": 6.25, "median": 8.125, "max": 10}


def test_info_of_a_dataset_without_boxes_works(coco_folder: Callable[..., Path], detheads: Callable[..., Any]) -> None:
    finished = detheads("data", "info", coco_folder(lambda content: content.update(annotations=[])), "--json")
    assert (finished.code, json.loads(finished.out)["box_width"]) == (0, None)
