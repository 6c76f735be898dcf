"""What stands for a mirrored image: features of the mirrored picture, turned features of the plain one, or nothing."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from detheads.foundation.errors import UserError
from detheads.training.batches import epoch_order, read_batches
from detheads.training.config import TrainConfig
from detheads.training.trainer import Trainer
from tests.training.world import TRAIN, World


@pytest.mark.parametrize("name", ["plain", "train"])
def test_turned_features_are_the_plain_ones_from_right_to_left_with_the_boxes_of_the_mirrored_image(
    world: World, name: str
) -> None:
    cache = world.cache(name)
    features = cache.turning_features().features([2, 3, 2], [True, False, False])
    for layer, values in features.items():
        plain = cache.features([2, 3], layers=[layer])[layer]
        assert torch.equal(values[0], torch.from_numpy(plain[0].numpy()[:, :, ::-1].copy()))
        assert torch.equal(values[1:], plain[[1, 0]])
    plain, turned = cache.targets(2).boxes, cache.turning_features().targets(2, True).boxes
    assert torch.allclose(turned[:, [2, 0]], cache.feature_spec.width - plain[:, [0, 2]])


@pytest.mark.parametrize(
    ("name", "mirror", "mirrors"),
    [
        ("plain", "auto", False),
        ("plain", "features", True),
        ("train", "auto", True),
        ("train", "images", True),
        ("train", "features", True),
        ("train", "none", False),
    ],
)
def test_half_of_the_images_are_mirrored_where_that_is_wanted(
    world: World, trainer: Callable[..., Trainer], name: str, mirror: str, mirrors: bool
) -> None:
    made = trainer(cache=name, mirror=mirror, batch=4)
    order = epoch_order(made.config, made.train_cache, 0)
    assert any(any(flipped) for _, flipped in order) == mirrors
    read = [batch.features for batch in read_batches(made.train_cache, order)]
    stored = world.cache(name)
    for (indices, flipped), features in zip(order, read, strict=True):
        expected = stored.features(indices, flipped if mirror != "features" else None)
        for layer, values in expected.items():
            if mirror == "features":
                values[torch.tensor(flipped)] = values[torch.tensor(flipped)].flip(3)
            assert torch.equal(features[layer], values)
    assert sum(len(indices) for indices, _ in order) == TRAIN


def test_images_that_the_cache_lacks_are_refused_rather_than_left_out(trainer: Callable[..., Trainer]) -> None:
    with pytest.raises(UserError, match="build it with --flips, which doubles it, or train with --mirror features"):
        trainer(cache="plain", mirror="images")
    with pytest.raises(UserError, match="mirror is one of auto, images, features, none, not 'maps'"):
        TrainConfig(mirror="maps")  # type: ignore[arg-type]


def test_a_run_goes_on_as_it_was_mirrored(trainer: Callable[..., Trainer]) -> None:
    made = trainer(cache="plain", epochs=1)
    made.fit()
    assert "mirror" not in json.loads((made.run / "config.json").read_text())["training"]  # as older runs
    trainer(cache="plain", epochs=1)
    with pytest.raises(UserError, match="was trained with --mirror auto, now features"):
        trainer(cache="plain", epochs=1, mirror="features")
    trainer(cache="plain", run="turned", epochs=1, mirror="features").fit()
    with pytest.raises(UserError, match="was trained with --mirror features, now auto"):
        trainer(cache="plain", run="turned", epochs=1)


def test_training_on_turned_features_ends_elsewhere_than_on_plain_ones(trainer: Callable[..., Trainer]) -> None:
    def weights(run: str, mirror: str) -> dict[str, Any]:
        made = trainer(cache="plain", run=run, epochs=1, mirror=mirror)
        made.fit()
        return made.head.state_dict()

    plain, none, turned = weights("plain", "auto"), weights("none", "none"), weights("turned", "features")
    assert all(torch.equal(plain[name], none[name]) for name in plain)
    assert any(not torch.equal(plain[name], turned[name]) for name in plain)
