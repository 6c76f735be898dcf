"""A recording in: every frame is run and comes out again at its time, with the boxes that are in it."""

import csv
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.deploy.video.conftest import Run
from tests.deploy.video.squares import COLORS, moving, read_clip, write_clip

VFR = (0, 3000, 4500, 20_000, 20_500, 90_000, 91_000, 200_000)
"""Ticks of 1/90000 s."""


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "detections.jsonl").read_text("utf-8").splitlines()]


def boxes(line: dict[str, Any]) -> dict[str, list[float]]:
    return {entry["name"]: entry["box"] for entry in line["detections"]}


def test_every_frame_is_found_in_with_its_number_and_time(clip: Path, run: Run) -> None:
    result = run(clip, batch=4)
    found = lines(result.folder)
    assert [line["id"] for line in found] == list(range(1, 31))
    assert [line["time"] for line in found] == pytest.approx([frame / 30 for frame in range(30)], abs=1e-6)
    for frame, line in enumerate(found):
        assert (line["image"], line["width"], line["height"]) == ("clip.mp4", 192, 144)
        assert set(boxes(line)) == set(COLORS)
        for color, left, top in moving(frame):
            assert boxes(line)[color] == pytest.approx([left, top, left + 24, top + 24], abs=2.5)
    assert (result.frames, result.counts.read, result.counts.ended) == (30, 30, "end")
    assert result.counts.dropped == result.counts.left_out == result.counts.damaged == 0


def test_the_annotated_video_has_the_frames_size_and_times_of_its_source(run: Run, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "vfr.mp4", len(VFR), ticks=VFR)
    result = run(source)
    assert result.annotated == tmp_path / "out" / "annotated.mp4"
    assert read_clip(result.annotated) == read_clip(source)
    assert [ticks for ticks, *_ in read_clip(result.annotated)] == list(VFR)
    with av.open(str(result.annotated)) as file:
        assert [packet.pts for packet in file.demux(video=0) if packet.is_keyframe] == [0, 200_000]


def test_boxes_are_drawn_where_they_were_found(clip: Path, run: Run) -> None:
    annotated = run(clip, lowest=np.array([0.0, 0.95], np.float32)).annotated
    assert annotated is not None
    with av.open(str(annotated)) as file:
        first = next(file.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    with av.open(str(clip)) as file:
        before = next(file.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    changed = np.abs(first - before).max(axis=2) > 60
    (_, left, top), (_, other_left, other_top) = moving(0)
    assert changed[int(top) - 8 : int(top) - 1, int(left) : int(left) + 24].mean() > 0.4  # its name
    assert not changed[int(other_top) - 8 : int(other_top) + 32, int(other_left) - 8 : int(other_left) + 32].any()


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_a_turned_video_is_run_and_drawn_as_players_show_it(rotation: int, run: Run, tmp_path: Path) -> None:
    def corner(_: int) -> list[tuple[str, float, float]]:
        return [("red", 8.0, 16.0)]

    source = write_clip(tmp_path / "turned.mp4", 3, places=corner, rotation=rotation)
    result = run(source)
    line = lines(result.folder)[0]
    # A point (x, y) of 192x144 turned counterclockwise: 90 -> (y, 192 - x), 180 -> (192 - x, 144 - y), 270 -> ...
    shown = {90: [16, 160, 40, 184], 180: [160, 104, 184, 128], -90: [104, 8, 128, 32]}[rotation]
    size = (192, 144) if rotation == 180 else (144, 192)
    assert (line["width"], line["height"]) == size
    assert boxes(line)["red"] == pytest.approx(shown, abs=2.5)
    assert result.annotated is not None
    with av.open(str(result.annotated)) as file:
        frame = next(file.decode(video=0))
        assert ((frame.width, frame.height), frame.rotation) == (size, 0)


@pytest.mark.parametrize("size", [(97, 61), (98, 61), (2, 2)])
def test_sizes_that_encoders_dislike_are_kept(size: tuple[int, int], run: Run, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "odd.mkv", 2, size=size)
    result = run(source)
    assert result.annotated is not None
    assert [kept for *_, kept in read_clip(result.annotated)] == [size] * 2


def test_the_shape_of_pixels_is_kept(run: Run, tmp_path: Path) -> None:
    result = run(write_clip(tmp_path / "wide.mp4", 2, aspect=Fraction(4, 3)))
    assert result.annotated is not None
    with av.open(str(result.annotated)) as file:
        assert file.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


@pytest.mark.parametrize(
    ("said", "numbers", "ended"),
    [
        ({"every": 7}, [1, 8, 15, 22, 29], "end"),
        ({"fps": 6.0}, [1, 6, 11, 16, 21, 26], "end"),
        ({"fps": 100.0}, list(range(1, 31)), "end"),
        ({"max_frames": 3}, [1, 2, 3], "frames"),
        ({"seconds": 0.2}, [1, 2, 3, 4, 5, 6], "seconds"),
        ({"every": 2, "max_frames": 4}, [1, 3, 5, 7], "frames"),
    ],
)
def test_only_the_frames_that_are_asked_for_are_run(
    said: dict[str, Any], numbers: list[int], ended: str, clip: Path, run: Run
) -> None:
    result = run(clip, **said)
    found = lines(result.folder)
    assert [line["id"] for line in found] == numbers
    assert [line["time"] for line in found] == pytest.approx([(number - 1) / 30 for number in numbers], abs=1e-3)
    assert result.counts.ended == ended
    assert result.annotated is not None
    assert [time for _, time, _ in read_clip(result.annotated)] == pytest.approx(
        [line["time"] for line in found], abs=1e-6
    )


def test_all_forms_of_results_say_the_same(clip: Path, run: Run) -> None:
    result = run(clip, formats=("jsonl", "csv", "coco"), max_frames=5, annotate=False)
    assert result.annotated is None
    assert sorted(path.name for path in result.folder.iterdir()) == [
        "detections.csv",
        "detections.json",
        "detections.jsonl",
        "summary.json",
    ]
    found = [(line["id"], entry["box"]) for line in lines(result.folder) for entry in line["detections"]]
    rows = list(csv.DictReader((result.folder / "detections.csv").open(encoding="utf-8")))
    assert [(int(row["id"]), [float(row[key]) for key in ("x1", "y1", "x2", "y2")]) for row in rows] == found
    coco = json.loads((result.folder / "detections.json").read_text("utf-8"))
    assert [(entry["image_id"], entry["bbox"][:2]) for entry in coco] == [(id_, box[:2]) for id_, box in found]
    assert json.loads((result.folder / "summary.json").read_text("utf-8")) == result.to_dict()


def test_classes_that_are_not_wanted_are_neither_written_nor_drawn_nor_numbered(clip: Path, run: Run) -> None:
    result = run(clip, lowest=np.array([np.inf, 0.5], np.float32), track=True, max_frames=4)
    assert {entry["name"] for line in lines(result.folder) for entry in line["detections"]} == {"green"}
    assert result.tracks == 1


@pytest.mark.parametrize(
    ("name", "encoder"), [("a.avi", "mpeg4"), ("b.ts", "libx264"), ("c.mkv", "mjpeg"), ("d.h264", "libx264")]
)
def test_other_containers_and_codecs_are_read(name: str, encoder: str, run: Run, tmp_path: Path) -> None:
    source = write_clip(tmp_path / name, 6, encoder=encoder)
    result = run(source)
    assert result.frames == 6
    times = [line["time"] for line in lines(result.folder)]
    assert np.diff(times) == pytest.approx(np.full(5, 1 / 30), abs=0.02)
    assert boxes(lines(result.folder)[5])["red"] == pytest.approx([20, 16, 44, 40], abs=2.5)
