"""Generated scenes: the same from the same seed, with exact boxes."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detheads.data import read_dataset
from detheads.data.scenes import draw_object, generate, render_scene
from detheads.data.shapes import CLASSES, ObjectClass
from detheads.data.validate import validate_dataset


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _random(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(list(seed)))


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        generate(tmp_path / name, 3, 2, size=96, seed=seed)
    assert _digest(tmp_path / "a") == _digest(tmp_path / "b") != _digest(tmp_path / "c")


def test_a_larger_set_begins_with_the_smaller_one(tmp_path: Path) -> None:
    generate(tmp_path / "few", 2, 1, size=96)
    generate(tmp_path / "more", 4, 2, size=96)
    few, more = read_dataset(tmp_path / "few", "train"), read_dataset(tmp_path / "more", "train")
    assert [image.path.read_bytes() for image in few.images] == [image.path.read_bytes() for image in more.images[:2]]
    np.testing.assert_array_equal(few.objects[1].boxes, more.objects[1].boxes)


def test_training_and_validation_pictures_differ(tmp_path: Path) -> None:
    generate(tmp_path / "set", 3, 3, size=96)
    contents = {path.read_bytes() for path in (tmp_path / "set").glob("*/*.png")}
    assert len(contents) == 6


def test_a_generated_set_is_a_valid_dataset_of_all_classes(tmp_path: Path) -> None:
    generate(tmp_path / "set", 60, 1, size=128)
    report = validate_dataset(tmp_path / "set", "train")
    assert report.problems == ()
    dataset = read_dataset(tmp_path / "set", "train")
    assert dataset.class_names == [kind.name for kind in CLASSES]
    assert not dataset.dropped
    assert any(len(objects.boxes) == 0 for objects in dataset.objects)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.name)
def test_the_box_of_an_object_is_tight_around_its_painted_pixels(kind: ObjectClass) -> None:
    checked = 0
    for seed in range(8):
        sprite = draw_object(_random(seed), kind, 200, 150)
        if sprite is None:
            continue
        white = np.full((150, 200, 3), 1000.0, dtype=np.float32)
        sprite.paint(white)
        # A pixel that lost half of the 1000 in each channel is surely more than half covered: colours end at 255.
        rows, columns = np.nonzero((white < 500).all(axis=2))
        inner = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        rows, columns = np.nonzero((white < 1000).any(axis=2))
        outer = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        left, top, right, bottom = sprite.box
        assert outer[0] <= left <= inner[0] and outer[1] <= top <= inner[1]
        assert inner[2] <= right <= outer[2] and inner[3] <= bottom <= outer[3]
        assert max(np.abs(np.subtract(inner, sprite.box))) <= 2
        checked += 1
    assert checked >= 4


@pytest.mark.parametrize("seed", range(5))
def test_boxes_lie_inside_the_picture_and_are_not_small(seed: int) -> None:
    scene = render_scene(_random(seed, 3), 320)
    height, width = scene.pixels.shape[:2]
    assert max(width, height) == 320
    sides = scene.boxes[:, 2:] - scene.boxes[:, :2]
    assert (scene.boxes >= 0).all() and (scene.boxes[:, 2:] <= (width, height)).all()
    assert (sides.max(axis=1, initial=0) >= 20).all() if len(sides) else scene.labels.shape == (0,)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--train", 0), "at least one picture per split"),
        (("--size", 10), "64 to 4096 pixels"),
        (("--seed", -1), "a seed is a whole number"),
    ],
)
def test_numbers_out_of_range_are_refused(
    tmp_path: Path, detheads: Callable[..., Any], options: tuple[object, ...], sentence: str
) -> None:
    finished = detheads("data", "scenes", "-o", tmp_path / "out", *options)
    assert (finished.code, sentence in finished.err) == (1, True)
    assert not (tmp_path / "out").exists()


def test_scenes_and_draw_work_from_the_command_line(tmp_path: Path, detheads: Callable[..., Any]) -> None:
    made = detheads("data", "scenes", "-o", tmp_path / "set", "--train", 3, "--val", 1, "--size", 80, "--json")
    assert json.loads(made.out)["train"] == 3
    drawn = detheads("data", "draw", tmp_path / "set", "-o", tmp_path / "pictures", "--count", 2, "--json")
    pictures = json.loads(drawn.out)["pictures"]
    assert len(pictures) == 2
    assert sorted(map(str, (tmp_path / "pictures").iterdir())) == sorted(pictures)
