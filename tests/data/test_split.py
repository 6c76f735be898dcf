"""``data split``: every picture in one split, classes spread evenly, look-alikes together, the same each time."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detheads.data import list_splits, read_dataset
from detheads.data.convert import convert_dataset
from detheads.data.layout import find_layout
from detheads.data.partition import partition
from tests.data.conftest import write_coco

SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}


def _picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A training split of 16 pictures, the last four of them repeating the first two, and a validation split of 4."""
    folder = tmp_path / "set"
    number = 0
    for split, seeds in (("train", [*range(12), 0, 0, 1, 1]), ("val", range(20, 24))):
        images, annotations = [], []
        (folder / split).mkdir(parents=True)
        for i, seed in enumerate(seeds, start=1):
            name = f"{i}.jpg"  # the same names and ids in both splits
            _picture(seed).save(folder / split / name, quality=95 - i)
            images.append({"id": i, "file_name": name, "width": 64, "height": 48})
            number += 1
            box = {"bbox": [number, 2, 20, 20], "area": 400, "iscrowd": 0}
            annotations.append({"id": i, "image_id": i, "category_id": 1 + i % 2, **box})
        document = {"images": images, "annotations": annotations}
        document["categories"] = [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}]
        write_coco(folder, json.dumps(document), split)
        for extra in ("a.jpg", "b.jpg"):
            (folder / split / extra).unlink()
    return folder


@pytest.mark.parametrize("seed", range(3))
def test_classes_are_spread_evenly_and_every_picture_is_in_one_split(seed: int) -> None:
    rng = np.random.default_rng(seed)
    present = rng.random((1000, 6)) < (0.6, 0.3, 0.1, 0.05, 0.02, 0.01)
    chosen = partition([[i] for i in range(1000)], present, SHARES, seed)
    assert sorted(i for indices in chosen.values() for i in indices) == list(range(1000))
    for name, share in SHARES.items():
        assert len(chosen[name]) == pytest.approx(1000 * share, abs=10)
        of_class = present[chosen[name]].sum(axis=0)
        assert np.abs(of_class - share * present.sum(axis=0)).max() <= 2


def test_groups_are_never_divided() -> None:
    rng = np.random.default_rng(4)
    order = rng.permutation(300).tolist()
    groups = [order[start : start + size] for start, size in zip(range(0, 300, 5), [5] * 60, strict=True)]
    chosen = partition(groups, rng.random((300, 3)) < 0.3, SHARES, 0)
    split_of = {i: name for name, indices in chosen.items() for i in indices}
    assert all(len({split_of[i] for i in group}) == 1 for group in groups)
    assert [len(chosen[name]) for name in SHARES] == pytest.approx([210, 60, 30], abs=5)


def _content(folder: Path) -> dict[str, list[tuple[bytes, list[float]]]]:
    """Of each split: the pictures' bytes with their boxes."""
    splits = {name: read_dataset(folder, name) for name in list_splits(folder)}
    return {
        name: sorted(
            (image.path.read_bytes(), objects.boxes.ravel().tolist())
            for image, objects in zip(dataset.images, dataset.objects, strict=True)
        )
        for name, dataset in splits.items()
    }


def test_a_dataset_is_divided_anew(pictures: Path, detheads: Callable[..., Any], tmp_path: Path) -> None:
    finished = detheads("data", "split", pictures, "-o", tmp_path / "a", "--val", "0.25", "--test", "0.2", "--json")
    result = json.loads(finished.out)
    assert (result["layout"], result["pictures_kept_together"]) == ("coco", 6)
    assert [(part["split"], part["images"]) for part in result["splits"]] == [("train", 11), ("val", 5), ("test", 4)]
    content = _content(tmp_path / "a")
    before = [picture for split in _content(pictures).values() for picture in split]
    assert sorted(picture for split in content.values() for picture in split) == sorted(before)
    for repeated in ((1, 13, 14), (2, 15, 16)):
        files = {(pictures / "train" / f"{i}.jpg").read_bytes() for i in repeated}
        assert [len(files & {data for data, _ in split}) for split in content.values()].count(3) == 1
    counts = {part["split"]: [entry["boxes"] for entry in part["classes"]] for part in result["splits"]}
    assert np.abs(np.diff(list(counts.values()), axis=1)).max() <= 2  # ten boxes of each class in the whole

    again = detheads("data", "split", pictures, "-o", tmp_path / "b", "--val", "0.25", "--test", "0.2")
    assert "boxes of ant" in again.out
    assert _content(tmp_path / "b") == content
    detheads("data", "split", pictures, "-o", tmp_path / "c", "--val", "0.25", "--test", "0.2", "--seed", "1")
    assert _content(tmp_path / "c") != content


@pytest.mark.parametrize("layout", ["yolo", "roboflow"])
def test_the_layout_stays_unless_another_is_asked_for(
    pictures: Path, detheads: Callable[..., Any], tmp_path: Path, layout: str
) -> None:
    convert_dataset([read_dataset(pictures, name) for name in ("train", "val")], tmp_path / "source", layout)
    assert detheads("data", "split", tmp_path / "source", "-o", tmp_path / "own", "--link").code == 0
    assert find_layout(tmp_path / "own") == layout
    detheads("data", "split", tmp_path / "source", "-o", tmp_path / "coco", "--to", "coco", "--split", "train")
    assert find_layout(tmp_path / "coco") == "coco"
    assert sum(len(part) for part in _content(tmp_path / "coco").values()) == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--val", "1"], "must be shares"),
        (["--val", "0"], "must be shares"),
        (["--val", "nan"], "must be shares"),
        (["--val", "0.6", "--test", "0.5"], "must be shares"),
        (["--val", "0.01", "--test", "0.01"], "are too few for a split"),
        (["--seed", "-1"], "a seed is a whole number"),
        (["--to", "voc"], "is not one of"),
    ],
)
def test_impossible_wishes_are_refused_and_leave_nothing(
    pictures: Path, detheads: Callable[..., Any], tmp_path: Path, options: list[str], message: str
) -> None:
    finished = detheads("data", "split", pictures, "-o", tmp_path / "out", *options)
    assert finished.code in {1, 2}
    assert message in " ".join(finished.err.split())
    assert not (tmp_path / "out").exists()


def test_a_real_dataset_keeps_its_look_alikes_together(
    photographs: Path, detheads: Callable[..., Any], tmp_path: Path
) -> None:
    detheads("data", "split", photographs / "raccoon", "-o", tmp_path / "out", "--link")
    result = json.loads(detheads("data", "validate", tmp_path / "out", "--json").out)
    assert not [finding for finding in result["judgement"] if "several splits" in finding["kind"]]
    assert [part["images"] for part in result["splits"]] == [160, 40]
