"""Every form of results says the same of a picture, and is read back as it was written."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from detheads.deploy import Detections
from detheads.deploy.writers import CocoResults, Csv, JsonLines, Record, Writer

FOUND = Detections(
    np.array([[1.1, 2.25, 31.7, 42.3], [0.1, 0.2, 5.0, 9.0]]),
    np.array([0.9, 0.1], np.float32),
    np.array([1, 0], np.int32),
    ('größte, "Eule"', "cat"),
    full=True,
)
NOTHING = Detections(np.zeros((0, 4)), np.zeros(0, np.float32), np.zeros(0, np.int32))
NAME = os.fsdecode(b"a/caf\xe9, 1.png")
RECORDS = (
    Record(7, NAME, 64, 48, FOUND),
    Record(8, "empty.png", 64, 48, NOTHING),
    Record(9, "film.mp4", 64, 48, FOUND, np.array([3, 12]), 0.04),
)


def written(writer: Writer, path: Path) -> str:
    for record in RECORDS:
        writer.write(record)
    writer.close()
    return path.read_text("utf-8")


def test_a_line_of_json_for_every_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    first, empty, frame = map(json.loads, written(JsonLines(path), path).splitlines())
    assert {key: first[key] for key in ("image", "id", "width", "height", "full")} == {
        "image": NAME, "id": 7, "width": 64, "height": 48, "full": True
    }  # fmt: skip
    assert [entry["box"] for entry in first["detections"]] == FOUND.boxes.tolist()
    assert [entry["score"] for entry in first["detections"]] == FOUND.scores.tolist()
    assert [(entry["name"], entry["label"]) for entry in first["detections"]] == [('größte, "Eule"', 1), ("cat", 0)]
    assert empty["detections"] == []
    assert "time" not in first
    assert frame["time"] == 0.04
    assert [entry["track"] for entry in frame["detections"]] == [3, 12]


def test_a_line_is_there_before_the_file_is_closed(tmp_path: Path) -> None:
    writer = JsonLines(tmp_path / "a.jsonl")
    writer.write(RECORDS[1])
    assert json.loads((tmp_path / "a.jsonl").read_text())["id"] == 8
    writer.close()


def test_a_row_for_every_detection(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = list(csv.DictReader(written(Csv(path), path).splitlines()))
    assert [(row["id"], row["time"], row["track"]) for row in rows] == [
        ("7", "", ""), ("7", "", ""), ("9", "0.04", "3"), ("9", "0.04", "12")
    ]  # fmt: skip
    assert rows[0]["image"] == "a/caf\\udce9, 1.png"
    assert rows[0]["name"] == 'größte, "Eule"'
    assert [[float(row[side]) for side in ("x1", "y1", "x2", "y2")] for row in rows[:2]] == FOUND.boxes.tolist()
    assert [np.float32(row["score"]) for row in rows[:2]] == FOUND.scores.tolist()


def test_coco_results_are_a_list_of_corners_and_sides(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    entries = json.loads(written(CocoResults(path, [30, 17]), path))
    assert [(entry["image_id"], entry["category_id"]) for entry in entries] == [(7, 17), (7, 30), (9, 17), (9, 30)]
    assert entries[0]["bbox"] == pytest.approx([1.1, 2.25, 30.6, 40.05])
    assert entries[0]["score"] == FOUND.scores[0]


def test_a_list_of_nothing_is_a_list(tmp_path: Path) -> None:
    writer = CocoResults(tmp_path / "a.json", [])
    writer.write(RECORDS[1])
    writer.close()
    assert json.loads((tmp_path / "a.json").read_text()) == []
