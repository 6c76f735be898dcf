"""A cache in a user's own program: a sequence of images that says what it is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detheads.cache.reader import FeatureCache
from detheads.foundation.errors import UserError
from tests.cache.conftest import HEIGHT, WIDTH


@pytest.fixture
def cache(shared_dataset: Path, tmp_path: Path, build: Callable[..., Any]) -> FeatureCache:
    assert build(shared_dataset, tmp_path / "cache").code == 0
    return FeatureCache(str(tmp_path / "cache"))


def test_a_cache_is_a_sequence_of_its_images(cache: FeatureCache) -> None:
    samples = list(cache)
    assert len(samples) == len(cache) == 10
    for index, sample in enumerate(samples):
        assert sample.image == cache.dataset.images[index]
        assert torch.equal(sample.features["last"], cache.features([index])["last"][0])
        assert torch.equal(sample.targets.boxes, cache.targets(index).boxes)
        assert sample.features["last"].shape == (64, HEIGHT // 16, WIDTH // 16)
    assert cache[-1].image == samples[9].image
    assert [sample.image for sample in cache[2:8:3]] == [samples[2].image, samples[5].image]
    with pytest.raises(IndexError):
        cache[10]


def test_a_cache_says_what_it_is(cache: FeatureCache) -> None:
    said = repr(cache)
    for part in (str(cache.folder), "10 images", "2 classes", "9 objects", "timm:test_vit at 64x96", "last 64x4x6"):
        assert part in said


@pytest.mark.parametrize(("crowds", "reason"), [(True, "all its 9 boxes are crowd regions"), (False, "no boxes")])
def test_a_cache_with_nothing_to_learn_is_refused_with_the_reason(
    cache: FeatureCache, crowds: bool, reason: str
) -> None:
    cache.require_objects("train on")
    kept = [objects.labels >= (0 if crowds else 99) for objects in cache.dataset.objects]
    objects = tuple(
        replace(o, boxes=o.boxes[k], labels=o.labels[k], crowd=np.ones(k.sum(), bool), area=o.area[k])
        for o, k in zip(cache.dataset.objects, kept, strict=True)
    )
    cache.dataset = replace(cache.dataset, objects=objects)
    with pytest.raises(UserError, match=f"holds nothing to train on: {reason}|it has {reason}"):
        cache.require_objects("train on")


def test_a_build_of_crowd_regions_only_is_remarked_on(dataset: Path, tmp_path: Path, build: Callable[..., Any]) -> None:
    path = dataset / "annotations" / "instances_train.json"
    path.write_text(path.read_text().replace('"iscrowd": 0', '"iscrowd": 1'))
    finished = build(dataset, tmp_path / "cache")
    assert (finished.code, "no object of set/train counts" in finished.err) == (0, True)
