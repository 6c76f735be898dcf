"""What the benchmark of training says when reading is slower than training, and when it is not."""

import time
from typing import Any

import pytest

from detheads.backbones.backbone import load_backbone
from detheads.bench.training import bench_train
from detheads.cache.builder import build_cache
from detheads.cache.reader import FeatureCache
from detheads.data import read_dataset
from detheads.data.scenes import generate
from detheads.training import batches
from detheads.training.trainer import Trainer

STEP = 0.01
"""Seconds of an artificial training step."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    folder = tmp_path_factory.mktemp("bench")
    generate(folder / "scenes", 4, 1, size=96)
    backbone = load_backbone("timm:test_vit", (96, 96), random_weights=True)
    build_cache(read_dataset(folder / "scenes", "train"), backbone, folder / "cache")
    return FeatureCache(folder / "cache")


@pytest.mark.parametrize(("reading", "expected"), [(0.3, 1.0), (1.7, 1.7), (3.0, 3.0)])
def test_a_reader_slower_than_training_sets_the_ratio(
    reading: float, expected: float, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real epoch takes as long as the slower of the two, and reading ahead hides the other."""
    stored = FeatureCache.stored

    def read_slowly(self: FeatureCache, *arguments: Any, **options: Any) -> Any:
        time.sleep(reading * STEP)
        return stored(self, *arguments, **options)

    monkeypatch.setattr(FeatureCache, "stored", read_slowly)
    monkeypatch.setattr(batches, "default_readers", lambda: 1)
    monkeypatch.setattr(Trainer, "optimise", lambda self, batch: time.sleep(STEP))
    result = bench_train(cache, "fcos", {"width": "16", "tower_blocks": "1"}, batch=2, steps=20)
    assert result.from_memory == pytest.approx(STEP, rel=0.25)
    assert result.ratio == pytest.approx(expected, rel=0.25)


def test_both_kinds_of_steps_train_on_the_same_boxes(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[Any] = []
    monkeypatch.setattr(Trainer, "optimise", lambda self, batch: batches.append(batch))
    bench_train(cache, "fcos", {"width": "16", "tower_blocks": "1"}, batch=2, steps=3)
    warm_up, runs = batches[:4], [batches[start : start + 3] for start in range(4, len(batches), 3)]
    assert len(runs) == 6  # three pairs
    for first, second in [(warm_up[:2], warm_up[2:]), *zip(runs[::2], runs[1::2], strict=True)]:
        for one, other in zip(first, second, strict=True):
            for left, right in zip(one.targets, other.targets, strict=True):
                assert left.boxes.equal(right.boxes)
                assert left.labels.equal(right.labels)
