"""Augmented copies: the boxes move with the pixels, and the same seed gives the same folder."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from detheads.data import read_dataset
from detheads.data.augment import SMALLEST_BOX, augment_dataset
from detheads.data.dataset import Category, Dataset, ImageRecord, Objects
from detheads.foundation.errors import UserError
from detheads.foundation.images import load_image


@pytest.fixture
def rectangles(tmp_path: Path) -> Dataset:
    """Pictures of one pure blue rectangle on mid grey, with its exact box."""
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(5)
    images, objects = [], []
    for index in range(12):
        x, y = rng.integers(10, 90, 2)
        w, h = rng.integers(40, 100, 2)
        path = tmp_path / "pictures" / f"{index}.png"
        picture = Image.new("RGB", (200, 220), (128, 128, 128))
        ImageDraw.Draw(picture).rectangle((x, y, x + w - 1, y + h - 1), fill=(0, 0, 255))
        picture.save(path)
        images.append(ImageRecord(index + 5, path.name, path, 200, 220))
        box = np.array([[x, y, x + w, y + h]], dtype=np.float64)
        objects.append(Objects(box, np.zeros(1, np.int64), np.zeros(1, bool), np.array([float(w * h)])))
    return Dataset("rectangles", "train", (Category(3, "blue"),), tuple(images), tuple(objects))


def test_boxes_of_the_copies_lie_on_the_objects(rectangles: Dataset, tmp_path: Path) -> None:
    augment_dataset(rectangles, tmp_path / "out", copies=4, seed=1)
    result = read_dataset(tmp_path / "out")
    assert len(result.images) == 12 * 5
    assert not result.dropped
    changed = 0
    for image, known in zip(result.images[12:], result.objects[12:], strict=True):
        pixels = np.asarray(load_image(image.path)).astype(int)
        assert pixels.shape == (image.height, image.width, 3)
        colourful = pixels.max(axis=2) - pixels.min(axis=2) > 60
        rows, columns = np.nonzero(colourful)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert len(known.boxes) == 1
        np.testing.assert_allclose(known.boxes[0], found, atol=2.5)  # JPEG smears an edge over a pixel or two
        sides = known.boxes[0, 2:] - known.boxes[0, :2]
        assert known.area[0] == pytest.approx(sides.prod())
        changed += (image.width, image.height) != (200, 220)
    assert 12 < changed < 48


def test_originals_stay_as_they_are(rectangles: Dataset, tmp_path: Path) -> None:
    augment_dataset(rectangles, tmp_path / "out", copies=1)
    result = read_dataset(tmp_path / "out")
    assert [image.id for image in result.images[:12]] == [image.id for image in rectangles.images]
    assert result.categories == rectangles.categories
    for before, after in zip(rectangles.images, result.images, strict=False):
        assert before.path.read_bytes() == after.path.read_bytes()


def test_the_seed_decides_the_copies(rectangles: Dataset, tmp_path: Path) -> None:
    def annotations(name: str, seed: int) -> object:
        augment_dataset(rectangles, tmp_path / name, copies=2, seed=seed)
        return json.loads((tmp_path / name / "annotations" / "instances_train.json").read_text())["annotations"]

    first = annotations("first", 0)
    assert first == annotations("second", 0)
    assert first != annotations("third", 1)


def test_an_image_without_objects_is_copied_too(rectangles: Dataset, tmp_path: Path) -> None:
    empty = replace(rectangles, objects=tuple(Objects.empty() for _ in rectangles.images))
    augment_dataset(empty, tmp_path / "out", copies=2)
    assert len(read_dataset(tmp_path / "out").images) == 36


def test_real_photographs_keep_most_of_their_objects(photographs: Path, tmp_path: Path) -> None:
    original = read_dataset(photographs / "raccoon", "val")
    result = augment_dataset(original, tmp_path / "out", copies=1)
    copies = result.objects[len(original.images) :]
    boxes = np.concatenate([known.boxes for known in copies])
    assert len(boxes) >= 0.9 * sum(len(known.boxes) for known in original.objects)
    assert (boxes[:, 2:] - boxes[:, :2] >= SMALLEST_BOX).all()


@pytest.mark.parametrize("copies", [0, -1])
def test_no_copies_are_refused(rectangles: Dataset, tmp_path: Path, copies: int) -> None:
    with pytest.raises(UserError, match="--copies"):
        augment_dataset(rectangles, tmp_path / "out", copies=copies)


def test_a_missing_picture_leaves_no_folder(
    coco_folder: Callable[..., Path], tmp_path: Path, detheads: Callable[..., object]
) -> None:
    folder = coco_folder()
    (folder / "train" / "b.jpg").unlink()
    result = detheads("data", "augment", folder, "-o", tmp_path / "out")
    assert result.code == 1  # type: ignore[attr-defined]
    assert "b.jpg" in result.err  # type: ignore[attr-defined]
    assert not (tmp_path / "out").exists()
