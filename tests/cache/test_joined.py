"""Several caches as one training set, against one cache of all their pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detheads.backbones.backbone import Backbone
from detheads.cache.builder import build_cache
from detheads.cache.joined import JoinedCache, open_caches
from detheads.cache.part import PartOfCache
from detheads.cache.reader import FeatureCache
from detheads.data import Dataset, read_dataset
from detheads.foundation.errors import UserError
from tests.cache.conftest import VIT

FIRST = 4
"""Pictures of the first of two parts."""


def _part(dataset: Dataset, indices: range) -> Dataset:
    images, objects = ([known[index] for index in indices] for known in (dataset.images, dataset.objects))
    return replace(dataset, images=tuple(images), objects=tuple(objects))


@pytest.fixture(scope="module")
def caches(shared_dataset: Path, backbones: dict[str, Backbone], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``whole``, with mirrored features; ``a`` and ``b``, which share its pictures; ``again``, ``b`` with the picture
    ids of ``a``; ``plain`` and ``small``, ``b`` without mirrored features and in int8."""
    folder, dataset = tmp_path_factory.mktemp("caches"), read_dataset(shared_dataset)
    a, b = _part(dataset, range(FIRST)), _part(dataset, range(FIRST, len(dataset.images)))
    ids = [image.id for image in dataset.images]
    again = replace(b, images=tuple(replace(image, id=ids[place]) for place, image in enumerate(b.images)))
    for name, part in {"whole": dataset, "a": a, "b": b, "again": again}.items():
        build_cache(part, backbones[VIT], folder / name, flips=True)
    build_cache(b, backbones[VIT], folder / "plain")
    build_cache(b, backbones[VIT], folder / "small", flips=True, dtype="int8")
    return folder


@pytest.mark.parametrize("second", ["b", "again"])
def test_joined_caches_are_the_cache_of_all_their_pictures(caches: Path, second: str) -> None:
    whole, joined = FeatureCache(caches / "whole"), open_caches([caches / "a", caches / second])
    assert len(joined) == len(whole)
    assert [entry.sha256 for entry in joined.manifest.images] == [entry.sha256 for entry in whole.manifest.images]
    indices, flipped = [9, 0, 3, 4, 9], [False, True, False, True, True]
    for name, values in joined.features(indices, flipped).items():
        torch.testing.assert_close(values, whole.features(indices, flipped)[name], rtol=1e-3, atol=1e-3)
    for index in range(len(whole)):
        found, expected = joined.targets(index, True), whole.targets(index, True)
        assert torch.equal(found.boxes, expected.boxes)
        assert torch.equal(found.labels, expected.labels)
        assert joined.letterbox(index) == whole.letterbox(index)
        assert joined[index].image.path.name == whole[index].image.path.name
    assert len({image.id for image in joined.dataset.images}) == len(whole)
    boxes = [
        np.array([entry["bbox"] for entry in cache.dataset.coco_json()["annotations"]]) for cache in (joined, whole)
    ]
    assert np.array_equal(*boxes)
    with pytest.raises(IndexError):
        joined.features([len(whole)])


def test_other_caches_and_another_order_are_another_training_set(caches: Path) -> None:
    a, b, again = (FeatureCache(caches / name) for name in ("a", "b", "again"))
    joined = [JoinedCache(parts) for parts in ([a, b], [b, a], [a, again])]
    for attribute in ("sha256", "annotations_sha256"):
        assert len({getattr(cache, attribute) for cache in (*joined, a)}) == 4
    assert joined[0].features_sha256 == joined[2].features_sha256  # other ids, the same features
    assert open_caches([caches / "a"]).sha256 == a.sha256


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("plain", "differ in their mirrored images (--flips)"),
        ("small", "differ in their storage type (--dtype)"),
        ("a", "are the same cache; give each once."),
    ],
)
def test_caches_that_do_not_go_together_are_refused(caches: Path, other: str, said: str) -> None:
    with pytest.raises(UserError) as raised:
        open_caches([caches / "a", caches / other])
    assert str(raised.value).startswith(f"{caches / 'a'} and {caches / other} ")
    assert said in str(raised.value)


def test_caches_of_other_classes_are_refused_by_name(
    caches: Path, shared_dataset: Path, backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    dataset = read_dataset(shared_dataset)
    dogs = replace(dataset, categories=(dataset.categories[0], replace(dataset.categories[1], name="dog")))
    build_cache(dogs, backbones[VIT], tmp_path / "dogs", flips=True)
    with pytest.raises(UserError, match=r"different classes: only .*a has 'Eule', only .*dogs has 'dog'"):
        open_caches([caches / "a", tmp_path / "dogs"])


def test_a_part_of_a_cache_has_its_pictures_alone_whether_it_is_joined_or_not(caches: Path) -> None:
    whole, positions = FeatureCache(caches / "whole"), (9, 2, 5)
    for cache in (whole, open_caches([caches / "a", caches / "b"])):
        part, turned = PartOfCache(cache, positions), PartOfCache(cache.turning_features(), positions)
        assert len(part) == 3
        for name, values in part.features([0, 1, 2], [False, True, False]).items():
            assert torch.equal(values, cache.features(positions, [False, True, False])[name])
            flipped = turned.features([1], [True])[name]
            assert torch.equal(flipped, cache.features([2])[name].flip(3))
        for index, position in enumerate(positions):
            assert torch.equal(part.targets(index, True).boxes, cache.targets(position, True).boxes)
            assert part.letterbox(index) == cache.letterbox(position)
            assert part[index].image == cache[position].image
            assert part.shard_numbers[index] == cache.shard_numbers[position]
        assert (part.sha256, part.features_sha256) == (cache.sha256, cache.features_sha256)
        ids = {image["id"] for image in part.dataset.coco_json()["images"]}
        assert ids == {cache.dataset.images[position].id for position in positions}
        with pytest.raises(IndexError, match="image 3 of 3 in a part of a cache"):
            part.features([3])
