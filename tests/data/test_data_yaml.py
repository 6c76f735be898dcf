"""``data.yaml`` is followed, and rows mean what it says they mean."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detheads.data import list_splits, read_dataset
from detheads.foundation.errors import UserError

ROW = "0 0.5 0.5 0.5 0.2\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Pictures with one object each in three folders, and no data.yaml."""
    folder = tmp_path / "set"
    for place in ("train", "more", "val"):
        (folder / "images" / place).mkdir(parents=True)
        (folder / "labels" / place).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (40, 20)).save(folder / "images" / place / f"{place}{number}.png")
            (folder / "labels" / place / f"{place}{number}.txt").write_text(ROW)
    return folder


def _yaml(folder: Path, text: str, name: str = "data.yaml") -> Path:
    (folder / name).write_text(f"names: [ant, no]\n{text}", encoding="utf-8")
    return folder


def _read(folder: Path, split: str = "train") -> list[str]:
    dataset = read_dataset(folder, split)
    assert [len(objects.boxes) for objects in dataset.objects] == [1] * len(dataset.images)
    assert all(image.path.is_file() for image in dataset.images)
    return [image.file_name for image in dataset.images]


MORE = ["more0.png", "more1.png"]


@pytest.mark.parametrize(
    "text",
    [
        "train: images/more\nval: images/val\n",
        "path: .\ntrain: images/more\n",
        "path: images\ntrain: more\n",
        "train: ./images/more/\n",
        "train: images\\more\n",
        "train: [images/more]\n",
        "train: ../images/more\n",  # as Roboflow writes it
        "path: /content/gone\ntrain: images/more\n",
        "path: ../datasets/set\ntrain: images/more\n",
    ],
)
def test_the_named_folder_is_read_and_not_the_customary_one(tree: Path, text: str) -> None:
    _yaml(tree, text)
    assert _read(tree) == MORE
    assert any("images/train" in remark for remark in read_dataset(tree, "train").remarks)


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ("train: ../images/more\n", "'../images/more' does not exist; 'images/more' beside the file is taken"),
        ("path: /content/gone\ntrain: images/more\n", "its path '/content/gone' does not exist"),
        ("\ttrain: images/more\n", "indented with tabs"),
    ],
)
def test_what_had_to_be_assumed_is_said(tree: Path, text: str, remark: str) -> None:
    if text.startswith("\t"):
        (tree / "data.yaml").write_text("names:\n\t- ant\n\t- no\ntrain: images/more\n")
    else:
        _yaml(tree, text)
    assert any(remark in sentence for sentence in read_dataset(tree, "train").remarks)


def test_a_list_of_folders_is_one_split(tree: Path) -> None:
    _yaml(tree, "train: [images/train, images/more]\nval: images/val\n")
    assert _read(tree) == ["train/train0.png", "train/train1.png", "more/more0.png", "more/more1.png"]
    assert list_splits(tree) == ["train", "val"]


@pytest.mark.parametrize(
    "prefix", ["./images/more/", "images/more/", "data/images/more/", "{tree}/images/more/", "images\\more\\"]
)
def test_a_text_file_lists_the_pictures(tree: Path, prefix: str) -> None:
    names = [f"{prefix.format(tree=tree)}more{number}.png" for number in (1, 0, 1)]
    (tree / "train.txt").write_text("\ufeff" + "\r\n".join(names) + "\r\n\r\n", encoding="utf-8")
    _yaml(tree, "path: .\ntrain: train.txt\nval: images/val\n")
    assert _read(tree) == ["more1.png", "more0.png"]


def test_a_picture_that_a_text_file_lists_in_vain_is_left_out_on_request(tree: Path) -> None:
    (tree / "train.txt").write_text("images/more/more0.png\nimages/more/more7.png\n")
    _yaml(tree, "train: train.txt\n")
    with pytest.raises(UserError, match=r"train.txt: line 2: 'images/more/more7.png' does not exist"):
        read_dataset(tree, "train")
    dataset = read_dataset(tree, "train", skip_bad=True)
    assert len(dataset.images) == 1 and list(dataset.skipped) == [f"{tree / 'train.txt'} line 2"]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("train: images/trian\n", ("names 'images/trian' for 'train', which does not exist", "images/train is there")),
        ("train: gone\nval: images/val\n", ("names 'gone' for 'train'", "images/train is there; correct one of them")),
        ("train: nowhere.txt\n", ("names 'nowhere.txt' for 'train'",)),
        ("train: ..\n", ("a folder above its own",)),
    ],
)
def test_a_file_that_disagrees_with_the_folders_is_refused_with_both(
    tree: Path, text: str, sentences: tuple[str, ...]
) -> None:
    _yaml(tree, text)
    with pytest.raises(UserError) as caught:
        read_dataset(tree, "train")
    assert all(sentence in str(caught.value) for sentence in (str(tree / "data.yaml"), *sentences))


@pytest.mark.parametrize("text", ["train: ../images/more\n", "path: {other}\ntrain: images/more\n"])
def test_a_copy_whose_file_names_the_original_is_refused_with_both(tree: Path, tmp_path: Path, text: str) -> None:
    other = tmp_path if text.startswith("train") else tmp_path / "original"
    (other / "images" / "more").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(other / "images" / "more" / "x.png")
    _yaml(tree, text.format(other=other))
    with pytest.raises(UserError) as caught:
        read_dataset(tree, "train")
    assert str(other / "images" / "more") in str(caught.value) and str(tree / "images" / "more") in str(caught.value)


def test_a_test_split_that_is_named_and_missing_matters_only_when_asked_for(tree: Path) -> None:
    _yaml(tree, "train: images/train\nval: images/val\ntest: test-dev.txt\n")
    assert list_splits(tree) == ["train", "val"]
    with pytest.raises(UserError, match=r"names 'test-dev.txt' for 'test'"):
        read_dataset(tree, "test")


def test_a_split_that_the_file_does_not_name_is_read_from_its_customary_folder(tree: Path) -> None:
    _yaml(tree, "train: [images/train, images/more]\n")
    assert list_splits(tree) == ["train", "val"]
    assert _read(tree, "val") == ["val0.png", "val1.png"]


@pytest.mark.parametrize("name", ["data.yml", "dataset.yaml", "my set.yaml"])
def test_the_file_may_have_another_name(tree: Path, name: str) -> None:
    assert _read(_yaml(tree, "train: images/more\n", name)) == MORE


def test_of_two_descriptions_none_is_guessed_and_one_may_be_given(tree: Path) -> None:
    _yaml(tree, "train: images/train\n", "a.yaml")
    _yaml(tree, "train: images/more\n", "b.yaml")
    with pytest.raises(UserError, match=r"a.yaml and b.yaml describe different datasets"):
        read_dataset(tree)
    assert _read(tree / "b.yaml") == MORE


@pytest.mark.parametrize(
    "row",
    [
        "1.000000 0.5 0.5 0.5 0.2",
        "1,0.5,0.5,0.5,0.2",
        "1, 0.5, 0.5, 0.5, 0.2",
        "1 0,5 0,5 0,5 0,2",
        "1;0.5;0.5;0.5;0.2",
        "1\t0.5\t0.5\t0.5\t0.2   ",
        "\ufeff1 0.5 0.5 0.5 0.2\r",
        "1 0.25 0.4 0.75 0.4 0.75 0.6 0.25 0.6",
    ],
)
def test_rows_of_other_tools_mean_the_same_box(yolo_folder: Path, row: str) -> None:
    (yolo_folder / "labels" / "train" / "a.txt").write_text(row + "\n", encoding="utf-8")
    objects = read_dataset(yolo_folder).objects[0]
    np.testing.assert_allclose(objects.boxes, [[10, 8, 30, 12]])
    assert objects.labels.tolist() == [1]


@pytest.mark.parametrize(("shape", "points"), [([2, 2], "0.1 0.1 0.9 0.9"), ([2, 3], "0.1 0.1 2 0.9 0.9 1")])
def test_keypoints_follow_the_box(yolo_folder: Path, shape: list[int], points: str) -> None:
    (yolo_folder / "data.yaml").write_text(f"names: [ant, no]\nkpt_shape: {shape}\n")
    labels = yolo_folder / "labels" / "train" / "a.txt"
    labels.write_text(f"1 0.5 0.5 0.5 0.2 {points}\n")
    np.testing.assert_allclose(read_dataset(yolo_folder).objects[0].boxes, [[10, 8, 30, 12]])
    labels.write_text(f"1 0.5 0.5 0.5 0.2 {points} 0.5\n")
    with pytest.raises(UserError, match=r"kpt_shape: \[2, \d\] asks for"):
        read_dataset(yolo_folder)


@pytest.mark.parametrize("shape", ["[2]", "[a, 2]", "[2, 5]", "{a: b}", "17"])
def test_an_odd_kpt_shape_is_refused(yolo_folder: Path, shape: str) -> None:
    (yolo_folder / "data.yaml").write_text(f"names: [ant, no]\nkpt_shape: {shape}\n")
    with pytest.raises(UserError, match="kpt_shape"):
        read_dataset(yolo_folder)


def test_polygons_that_look_like_keypoints_are_remarked_on(yolo_folder: Path) -> None:
    rows = "".join(f"1 0.5 0.{y} 0.5 0.2 0.4 0.{y} 0.6 0.{y}\n" for y in (3, 5, 7))
    (yolo_folder / "labels" / "train" / "a.txt").write_text(rows)
    assert any("set kpt_shape" in remark for remark in read_dataset(yolo_folder).remarks)


def test_polygons_that_leave_the_picture_are_remarked_on(yolo_folder: Path) -> None:
    (yolo_folder / "labels" / "train" / "a.txt").write_text("1 0.5 0.5 0.5 2 0.1 0.1\n")
    assert any("values outside 0 to 1" in remark for remark in read_dataset(yolo_folder).remarks)


def test_detections_with_scores_are_told_from_labels(yolo_folder: Path) -> None:
    (yolo_folder / "labels" / "train" / "a.txt").write_text("1 0.5 0.5 0.5 0.2 0.93\n")
    with pytest.raises(UserError, match="six numbers, as detections with a score have"):
        read_dataset(yolo_folder)


def test_a_file_in_latin_1_is_read_with_its_accents(yolo_folder: Path) -> None:
    (yolo_folder / "data.yaml").write_bytes("names: [Käfer, Bär]\n".encode("latin-1"))
    dataset = read_dataset(yolo_folder)
    assert dataset.class_names == ["Käfer", "Bär"]
    assert "is not UTF-8" in dataset.remarks[0]


def test_pictures_that_share_a_label_file_are_remarked_on(yolo_folder: Path) -> None:
    Image.new("RGB", (40, 20)).save(yolo_folder / "images" / "train" / "a.jpg")
    remarks = read_dataset(yolo_folder).remarks
    assert any("it holds the labels of a.jpg and of a.png" in remark for remark in remarks)


def test_labels_of_which_none_has_a_picture_are_refused_with_two_names(yolo_folder: Path) -> None:
    (yolo_folder / "labels" / "train" / "a.txt").rename(yolo_folder / "labels" / "train" / "img_a.txt")
    with pytest.raises(UserError, match=r"1 label files, and none of them .* \(img_a.txt, but a.png\)"):
        read_dataset(yolo_folder)


def test_endings_that_are_left_out_are_named_with_their_count(yolo_folder: Path, detheads: Callable[..., Any]) -> None:
    for name in ("c.avif", "d.avif", "e.HEIC"):
        (yolo_folder / "images" / "train" / name).touch()
    (yolo_folder / "labels" / "train" / "c.txt").write_text(ROW)
    (yolo_folder / "labels" / "train" / "._a.txt").write_bytes(b"\x00\x05")
    (yolo_folder / "labels" / "train" / "classes.txt").write_text("ant\nno\n")
    finished = detheads("data", "info", yolo_folder)
    assert finished.code == 0
    assert "left out (2 .avif, 1 .heic)" in finished.err
    assert "c.txt belongs to c.avif, whose format is not read" in finished.err
    assert "classes.txt" not in finished.err and "._a" not in finished.err


def test_an_unreadable_label_file_leaves_out_its_picture(yolo_folder: Path) -> None:
    (yolo_folder / "labels" / "train" / "a.txt").write_bytes(b"\xff\x00\xfe\x01")
    dataset = read_dataset(yolo_folder, skip_bad=True)
    assert [image.file_name for image in dataset.images] == ["b.png"]
    assert list(dataset.skipped) == [str(yolo_folder / "images" / "train" / "a.png")]


def test_a_test_split_may_have_no_labels(yolo_folder: Path) -> None:
    (yolo_folder / "images" / "test").mkdir()
    Image.new("RGB", (40, 20)).save(yolo_folder / "images" / "test" / "t.png")
    dataset = read_dataset(yolo_folder, "test")
    assert len(dataset.images) == 1 and "without objects" in dataset.remarks[0]


def test_a_split_of_pictures_that_are_not_read_is_refused_with_the_ending(yolo_folder: Path) -> None:
    for path in (yolo_folder / "images" / "train").iterdir():
        path.rename(path.with_suffix(".avif"))
    with pytest.raises(UserError, match=r"holds no images.*2 \.avif"):
        read_dataset(yolo_folder)
