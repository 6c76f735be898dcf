"""Every head learns eight generated images by heart, from real features of the embedded backbone."""

from pathlib import Path

import pytest

from detheads.backbones.backbone import load_backbone
from detheads.cache.builder import build_cache
from detheads.cache.reader import FeatureCache
from detheads.data import read_dataset
from detheads.data.dataset import Dataset
from detheads.data.scenes import generate
from detheads.headkit import registry
from detheads.training.config import TrainConfig
from detheads.training.trainer import Trainer
from tests.heads.worlds import small_config

STEPS = 80
MORE_STEPS: dict[str, int] = {}
"""Budgets of heads that need more, by name."""


@pytest.fixture(scope="module")
def eight_images(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("eight")
    generate(folder, 8, 1, size=160, seed=3)
    dataset = read_dataset(folder, "train")
    assert sum(len(objects.boxes) for objects in dataset.objects) >= 20
    return dataset


@pytest.fixture(scope="module")
def features(eight_images: Dataset, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    folder = tmp_path_factory.mktemp("features")
    build_cache(eight_images, load_backbone("effnet_lite0", (160, 160)), folder / "cache")
    return FeatureCache(folder / "cache")


@pytest.fixture(scope="module")
def features_with_blocks(
    eight_images: Dataset, vit_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> FeatureCache:
    """The same images seen by a transformer, with every intermediate block that some head reads."""
    blocks = sorted({block for entry in registry.trainable().values() for block in entry.head.blocks})
    backbone = load_backbone("dinov2_vits14", (224, 224), weights=vit_weights, blocks=tuple(blocks))
    folder = tmp_path_factory.mktemp("blocks")
    build_cache(eight_images, backbone, folder / "cache")
    return FeatureCache(folder / "cache")


@pytest.mark.slow
def test_a_head_overfits_eight_images_within_its_step_budget(
    entry: registry.Entry, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    cache = request.getfixturevalue("features_with_blocks" if entry.head.blocks else "features")
    steps = MORE_STEPS.get(entry.name, STEPS)
    config = TrainConfig(epochs=steps, batch=8, lr=2e-3, eval_every=steps)
    result = Trainer(entry.name, small_config(entry), cache, cache, tmp_path / "run", config).fit()
    assert result.metrics["AP50"] >= 0.8
