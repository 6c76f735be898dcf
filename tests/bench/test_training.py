"""What the benchmark of training says when reading is slower than training, and when it is not."""

import time
from typing import Any

import pytest
import torch

from detheads.backbones.backbone import load_backbone
from detheads.bench.training import bench_train
from detheads.cache.builder import build_cache
from detheads.cache.reader import FeatureCache
from detheads.data import read_dataset
from detheads.data.scenes import generate
from detheads.foundation.errors import UserError
from detheads.ops.devices import described
from detheads.training.batches import Batch
from detheads.training.config import TrainConfig
from detheads.training.trainer import Trainer

STEP = 0.02
"""Seconds of an artificial training step."""
NARROW = {"width": "16", "tower_blocks": "1"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    folder = tmp_path_factory.mktemp("bench")
    generate(folder / "scenes", 20, 1, size=96)
    backbone = load_backbone("timm:test_vit", (96, 96), random_weights=True)
    build_cache(read_dataset(folder / "scenes", "train"), backbone, folder / "cache")
    return FeatureCache(folder / "cache")


@pytest.mark.parametrize(
    ("reading", "readers", "least", "most"),
    [(0.3, 1, 0.8, 1.45), (1.7, 1, 1.45, 2.3), (3.0, 1, 2.3, 4.0), (1.7, 4, 0.8, 1.45)],
)
def test_readers_slower_than_training_set_the_ratio_and_the_share_of_waiting(
    reading: float, readers: int, least: float, most: float, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real epoch takes as long as the slower of the two, and reading ahead hides the other."""
    stored = FeatureCache.stored

    def read_slowly(self: FeatureCache, *arguments: Any, **options: Any) -> Any:
        time.sleep(reading * STEP)
        return stored(self, *arguments, **options)

    monkeypatch.setattr(FeatureCache, "stored", read_slowly)
    monkeypatch.setattr(Trainer, "optimise", lambda self, batch: time.sleep(STEP))
    result = bench_train(cache, "fcos", NARROW, TrainConfig(batch=1), steps=16, readers=readers)
    assert result.steps == 16
    assert STEP <= result.from_memory < 2 * STEP  # a busy machine wakes up late
    assert least < result.ratio < most
    assert result.images_per_second == pytest.approx(1 / result.from_cache)
    assert result.waiting == pytest.approx(1 - 1 / result.ratio, abs=0.2)


def test_both_kinds_of_epochs_train_on_the_same_boxes_on_the_device_named(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[Batch] = []
    monkeypatch.setattr(Trainer, "optimise", lambda self, batch: fed.append(batch))
    result = bench_train(cache, "fcos", NARROW, TrainConfig(batch=6), steps=100)
    assert (result.steps, result.blocks) == (3, 3)  # of 20 images
    assert result.device == described(torch.device("cpu"))
    epochs = [fed[start : start + 3] for start in range(0, len(fed), 3)]
    assert len(epochs) == 8  # a pair to warm up
    for first, second in zip(epochs[::2], epochs[1::2], strict=True):
        for one, other in zip(first, second, strict=True):
            assert one.targets.boxes.equal(other.targets.boxes)
            assert one.targets.labels.equal(other.targets.labels)
            assert one.targets.prepared.keys() == other.targets.prepared.keys()


def test_a_training_that_diverges_is_not_timed(cache: FeatureCache) -> None:
    with pytest.raises(UserError, match="is not finite at step"):
        bench_train(cache, "fcos", NARROW, TrainConfig(batch=6, lr=1e30), steps=3)
