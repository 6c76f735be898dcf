"""Boxes of a cache are read fast, and are those that the general reader of COCO files finds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detheads.cache.annotations import read_annotations
from detheads.data import read_dataset
from detheads.data.coco import read_coco_json
from detheads.foundation import atomic
from detheads.foundation.errors import UserError


def test_boxes_are_those_that_any_reader_of_coco_finds_in_the_annotations(
    shared_dataset: Path, tmp_path: Path, build: Callable[..., Any]
) -> None:
    cache = tmp_path / "cache"
    build(shared_dataset, cache)
    path = next(cache.glob("annotations-*.json"))
    known = read_coco_json(path, cache, name="ten", split="train")
    found = read_annotations(path, atomic.sha256_of(path), "ten", "train")
    assert (found.images, found.categories, found.dropped) == (known.images, known.categories, known.dropped)
    assert found.coco_json() == known.coco_json()
    assert len(found.coco_json()["annotations"]) == 9


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["annotations"][0].update(bbox=[1, 2, 3]),
        lambda document: document["annotations"][0].update(bbox=["1", 2, 3, 4]),
        lambda document: document["annotations"][0].update(category_id=4),
        lambda document: document["annotations"][0].update(image_id=10**30),
        lambda document: document["annotations"][0].pop("area"),
        lambda document: document["categories"][0].update(name=3),
        lambda document: document["images"].append(document["images"][0]),
    ],
)
def test_annotations_that_no_cache_writes_are_refused(
    shared_dataset: Path, tmp_path: Path, change: Callable[[Any], object]
) -> None:
    document = read_dataset(shared_dataset).coco_json()
    change(document)
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match="does not hold the boxes of a feature cache; build the cache again"):
        read_annotations(path, atomic.sha256_of(path), "ten", "train")


@pytest.mark.parametrize("text", ["", "{", "[" * 10**5, '{"images": [NaN}'])
def test_annotations_that_are_not_json_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(text)
    with pytest.raises(UserError, match="does not hold the boxes of a feature cache; build the cache again"):
        read_annotations(path, atomic.sha256_of(path), "ten", "train")
