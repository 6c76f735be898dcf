"""Speed as a ratio to a named baseline of the same run, and peak memory."""

import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from detheads.backbones.backbone import Backbone
from detheads.cache.builder import build_cache
from detheads.cache.reader import FeatureCache
from detheads.data.dataset import Dataset
from detheads.foundation.errors import UserError
from detheads.training.batches import Batch, epoch_order, read_batches
from detheads.training.config import TrainConfig
from detheads.training.trainer import Trainer

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CacheBench:
    """Caching against the bare backbone; images a second.

    ``ratio`` is ``caching / bare_forward``. Baseline: the same forward passes on one batch that stays in memory.
    """

    images: int
    batch: int
    caching: float
    bare_forward: float
    ratio: float
    peak_memory_mb: float


@dataclass(frozen=True)
class TrainBench:
    """Training steps from the cache against steps on features in memory; median seconds a step.

    ``ratio`` is ``from_cache / from_memory``.
    """

    steps: int
    batch: int
    from_cache: float
    from_memory: float
    ratio: float
    peak_memory_mb: float


def peak_memory_mb() -> float:
    """The largest resident size this process has had, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


@torch.inference_mode()
def bench_cache(dataset: Dataset, backbone: Backbone, batch: int, on_progress: Progress) -> CacheBench:
    """Cache a dataset into a temporary folder between two halves of bare forward passes over as many images."""
    spec, count = backbone.feature_spec, len(dataset.images)
    passes = max(2, -(-count // batch))
    memory_format = torch.channels_last if len(spec.main) > 1 else torch.contiguous_format
    backbone.to(memory_format=memory_format)
    pixels = torch.randint(0, 256, (batch, 3, spec.height, spec.width), dtype=torch.uint8)
    inputs = backbone.normalise(pixels.to(next(backbone.parameters()).device)).contiguous(memory_format=memory_format)
    backbone(inputs)  # warm-up

    def forward(times: int) -> float:
        started = time.perf_counter()
        for _ in range(times):
            backbone(inputs)
        return time.perf_counter() - started

    bare = forward(passes // 2)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        build_cache(dataset, backbone, Path(folder) / "cache", batch_size=batch, on_progress=on_progress)
        caching = count / (time.perf_counter() - started)
    bare += forward(passes - passes // 2)
    forward_rate = passes * batch / bare
    return CacheBench(count, batch, caching, forward_rate, caching / forward_rate, peak_memory_mb())


def bench_train(cache: FeatureCache, head: str, options: dict[str, str], batch: int, steps: int) -> TrainBench:
    """Alternate training steps whose features come from the cache with steps on one batch in memory.

    Raises:
        UserError: when the cache holds less than one batch.
    """
    if len(cache) < batch:
        raise UserError(
            f"{cache.folder} holds {len(cache)} images, less than a batch of {batch}; use a smaller --batch."
        )
    folder = Path(tempfile.mkdtemp())
    try:
        config = TrainConfig(epochs=1, batch=batch)
        trainer = Trainer(head, options, cache, cache, folder / "run", config)
        trainer = _with_endless_schedule(trainer, steps)
        order = [
            chunk
            for epoch in range(-(-2 * steps * batch // len(cache)) + 1)
            for chunk in epoch_order(config, len(cache), epoch, cache.has_flips)
            if len(chunk[0]) == batch
        ][: steps + 2]
        from_cache, from_memory = [], []
        held: Batch | None = None
        batches = iter(read_batches(cache, order))
        for number in range(len(order)):
            started = time.perf_counter()
            fresh = next(batches)
            held = held or fresh
            trainer.optimise(fresh)
            middle = time.perf_counter()
            trainer.optimise(replace(held, targets=fresh.targets))
            if number >= 2:  # the first steps warm caches and allocators
                from_cache.append(middle - started)
                from_memory.append(time.perf_counter() - middle)
        first, second = statistics.median(from_cache), statistics.median(from_memory)
        return TrainBench(len(from_cache), batch, first, second, first / second, peak_memory_mb())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _with_endless_schedule(trainer: Trainer, steps: int) -> Trainer:
    """Keep the learning rate above zero however many steps the bench takes."""
    trainer.total_steps = max(trainer.total_steps, 4 * steps)
    return trainer
