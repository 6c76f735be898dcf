"""``validate`` lists everything, also where the readers refuse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detheads.data.validate import Report, validate_dataset
from tests.data.conftest import Document


def _kinds(report: Report) -> dict[str, tuple[str, int]]:
    return {problem.kind: (problem.severity, problem.count) for problem in report.problems}


def test_a_good_dataset_has_no_problems(coco_folder: Callable[..., Path]) -> None:
    report = validate_dataset(coco_folder())
    assert report.problems == ()
    assert [(part.split, part.images, part.boxes) for part in report.splits] == [("train", 2, 2)]
    assert report.usable


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _save(mode: str, size: tuple[int, int] = (40, 30), **options: Any) -> Callable[[Path], object]:
    return lambda path: Image.new(mode, size).save(path, **options)


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 3
    return exif


@pytest.mark.parametrize(
    ("damage", "kind", "severity"),
    [
        (_truncate, "unusable image", "error"),
        (lambda path: path.write_text("no image"), "unusable image", "error"),
        (lambda path: path.write_bytes(b""), "unusable image", "error"),
        (_save("RGB", (30, 40)), "size mismatch", "error"),
        (_save("RGB", (1, 1)), "tiny image", "warning"),
        (_save("L", (8000, 6300)), "huge image", "warning"),
        (_save("CMYK"), "unusual mode", "note"),
        (_save("RGB", exif=_turned()), "EXIF orientation", "note"),
    ],
)
def test_every_image_is_opened_and_judged(
    coco_folder: Callable[..., Path], damage: Callable[[Path], object], kind: str, severity: str
) -> None:
    folder = coco_folder()
    damage(folder / "train" / "b.jpg")
    report = validate_dataset(folder)
    assert _kinds(report)[kind] == (severity, 1)
    assert all(problem.file == folder / "train" / "b.jpg" for problem in report.problems)


def test_all_problems_are_listed_where_a_reader_would_stop(coco_folder: Callable[..., Path]) -> None:
    def change(content: Document) -> None:
        first = content["annotations"][0]
        content["categories"].append({"id": 20, "name": "unicorn"})
        content["images"].append({"id": 3, "file_name": "a.jpg", "width": 40, "height": 30})
        content["images"].append({"id": 11, "file_name": "a.jpg", "width": 40, "height": 30})
        content["annotations"] += [
            first | {"id": 10, "category_id": 77},
            first | {"id": 11, "category_id": 78},
            first | {"id": 12, "bbox": [1, 1, 0, 5]},
            first | {"id": 13, "bbox": [50, 1, 5, 5]},
            first | {"id": 14, "bbox": [35, 1, 15, 5]},
        ]

    folder = coco_folder(change)
    (folder / "train" / "c.jpg").write_bytes((folder / "train" / "b.jpg").read_bytes())
    report = validate_dataset(folder)
    assert _kinds(report) == {
        "duplicate image id": ("error", 1),
        "unknown category": ("error", 2),
        "bad box: zero or negative size": ("warning", 1),
        "bad box: outside the image": ("warning", 1),
        "clipped box": ("note", 1),
        "class without boxes": ("note", 1),
        "image listed twice": ("warning", 1),
        "unlisted image file": ("note", 1),
    }
    severities = [problem.severity for problem in report.problems]
    assert severities == ["error"] * 2 + ["warning"] * 3 + ["note"] * 3


def test_yolo_labels_without_an_image_are_reported(yolo_folder: Path) -> None:
    (yolo_folder / "labels" / "train" / "c.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert _kinds(validate_dataset(yolo_folder)) == {"labels without an image": ("warning", 1)}


def test_unreadable_annotations_are_a_problem_and_not_an_exception(
    coco_folder: Callable[..., Path], detheads: Callable[..., Any]
) -> None:
    folder = coco_folder()
    (folder / "annotations" / "instances_train.json").write_text("{")
    finished = detheads("data", "validate", folder, "--json")
    result = json.loads(finished.out)
    assert (finished.code, result["errors"], result["usable"]) == (1, 1, False)
    assert "not readable JSON" in result["splits"][0]["problems"][0]["sentence"]


@pytest.mark.parametrize(("mode", "code"), [("CMYK", 0), ("RGB", 1)])
def test_only_errors_make_the_exit_code_1(
    coco_folder: Callable[..., Path], detheads: Callable[..., Any], mode: str, code: int
) -> None:
    folder = coco_folder()
    Image.new(mode, (40, 30) if code == 0 else (41, 30)).save(folder / "train" / "a.jpg")
    finished = detheads("data", "validate", folder)
    assert finished.code == code
    assert str(folder / "train" / "a.jpg") in finished.out.replace("\n", "")


@pytest.mark.parametrize("name", ["raccoon", "bccd"])
def test_real_datasets_are_usable(photographs: Path, name: str) -> None:
    report = validate_dataset(photographs / name, "val")
    assert [problem for problem in report.problems if problem.severity == "error"] == []
    assert [part.images for part in report.splits] == [{"raccoon": 40, "bccd": 73}[name]]


def test_all_splits_are_checked_without_a_choice(coco_folder: Callable[..., Path]) -> None:
    coco_folder(split="val")
    folder = coco_folder()
    _truncate(folder / "val" / "b.jpg")
    assert validate_dataset(folder, "train").usable
    report = validate_dataset(folder)
    assert [part.split for part in report.splits] == ["train", "val"]
    assert [problem.file for problem in report.problems] == [folder / "val" / "b.jpg"]
    assert not report.usable


def test_one_unreadable_split_does_not_hide_another(coco_folder: Callable[..., Path]) -> None:
    coco_folder(split="val")
    folder = coco_folder()
    (folder / "annotations" / "instances_train.json").write_text("{")
    assert [(part.split, part.images) for part in validate_dataset(folder).splits] == [("train", 0), ("val", 2)]
