"""Every head learns eight generated images by heart, from real features of the embedded backbone."""

from pathlib import Path

import pytest

from detheads.backbones.backbone import load_backbone
from detheads.cache.builder import build_cache
from detheads.cache.reader import FeatureCache
from detheads.data import read_dataset
from detheads.data.scenes import generate
from detheads.heads import registry
from detheads.training.config import TrainConfig
from detheads.training.trainer import Trainer
from tests.heads.worlds import small_config

STEPS = 80
MORE_STEPS: dict[str, int] = {}
"""Budgets of heads that need more, by name."""


@pytest.fixture(scope="module")
def eight_images(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    folder = tmp_path_factory.mktemp("eight")
    generate(folder / "scenes", 8, 1, size=160, seed=3)
    dataset = read_dataset(folder / "scenes", "train")
    assert sum(len(objects.boxes) for objects in dataset.objects) >= 20
    build_cache(dataset, load_backbone("effnet_lite0", (160, 160)), folder / "cache")
    return FeatureCache(folder / "cache")


@pytest.mark.slow
def test_a_head_overfits_eight_images_within_its_step_budget(
    entry: registry.Entry, eight_images: FeatureCache, tmp_path: Path
) -> None:
    steps = MORE_STEPS.get(entry.name, STEPS)
    config = TrainConfig(epochs=steps, batch=8, lr=2e-3, eval_every=steps)
    if entry.head.blocks:
        pytest.skip(f"{entry.name} reads transformer blocks, which the embedded backbone has not")
    result = Trainer(entry.name, small_config(entry), eight_images, eight_images, tmp_path / "run", config).fit()
    assert result.metrics["AP50"] >= 0.8
