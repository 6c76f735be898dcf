"""Speed of training from a cache against the same steps on features that lie on the device already."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch

from detheads.bench.memory import peak_memory_mb
from detheads.cache.reader import FeatureCache
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, silent
from detheads.foundation.timing import Contender, take_turns
from detheads.headkit.contract import Matcher
from detheads.ops.devices import described
from detheads.targets.objects import TargetBatch
from detheads.training.batches import Batch, Chosen, epoch_order, read_batches
from detheads.training.config import TrainConfig
from detheads.training.trainer import Trainer

BLOCKS = 3
"""Epochs of each side that are measured, besides one that warms up."""


@dataclass(frozen=True)
class TrainBench:
    """Epochs fed by the cache in turns with epochs on features in memory.

    Attributes:
        device: where the head trains, in words.
        batch: images a step.
        steps: of an epoch that were taken.
        blocks: epochs of each side.
        from_cache: median seconds a step of an epoch fed by the cache. It begins with nothing read, and its readers
            have the time of its own steps, no more.
        from_memory: the baseline, likewise: the same steps and boxes, on the features of one batch on the device.
        ratio: of the former to the latter, median over pairs of epochs that follow each other.
        waiting: share of the time fed by the cache in which training waited for the next batch.
        images_per_second: fed by the cache.
    """

    device: str
    batch: int
    steps: int
    blocks: int
    from_cache: float
    from_memory: float
    ratio: float
    waiting: float
    images_per_second: float
    peak_memory_mb: float


def bench_train(
    cache: FeatureCache,
    head: str,
    options: Mapping[str, str],
    config: TrainConfig,
    *,
    steps: int,
    device: torch.device | None = None,
    readers: int | None = None,
    blocks: int = BLOCKS,
    on_progress: Progress = silent,
) -> TrainBench:
    """Take turns between epochs whose features come from the cache and epochs on one batch in memory.

    Args:
        steps: of an epoch, at most.
        readers: threads that read; the trainer's own choice when None.

    Raises:
        UserError: when the cache holds less than one batch, or the training diverges.
    """
    if len(cache) < config.batch:
        raise UserError(
            f"{cache.folder} holds {len(cache)} images, less than a batch of {config.batch}; use a smaller --batch."
        )
    device = device or torch.device("cpu")
    waited: list[float] = []

    def train(batches: Iterable[Batch]) -> None:
        for fed in batches:
            trainer.optimise(fed)
        divergence = trainer.learner.divergence()  # which waits until the device has taken the steps
        if divergence is not None:
            raise UserError(divergence.sentence)

    def train_from_cache(order: list[Chosen]) -> None:
        batches = read_batches(cache, order, matcher=matcher, device=device, readers=readers)
        train(batches)
        waited.append(batches.waited)

    def rounds() -> Iterator[Mapping[str, Contender]]:
        for epoch in range(blocks + 1):
            on_progress("measuring", epoch, blocks + 1)
            order = _whole_batches(cache, config, epoch)[:steps]
            features = next(read_batches(cache, order[:1], device=device)).features
            in_memory = [Batch(features, _targets(cache, chosen, matcher).to(device)) for chosen in order]
            yield {"from memory": partial(train, in_memory), "from cache": partial(train_from_cache, order)}

    with tempfile.TemporaryDirectory() as folder:
        # So many epochs that the learning rate stays above zero.
        lasting = replace(config, epochs=4 * (blocks + 1))
        trainer = Trainer(head, options, cache, cache, Path(folder) / "run", lasting, device=device)
        matcher = trainer.head.matcher()
        timing = take_turns(rounds())
    on_progress("measuring", blocks + 1, blocks + 1)
    taken = min(steps, len(cache) // config.batch)
    from_cache, from_memory = (timing.median(name) / taken for name in ("from cache", "from memory"))
    shares = [share / seconds for share, seconds in zip(waited[1:], timing.seconds["from cache"], strict=True)]
    return TrainBench(
        device=described(device),
        batch=config.batch,
        steps=taken,
        blocks=blocks,
        from_cache=from_cache,
        from_memory=from_memory,
        ratio=timing.paired_ratio("from cache", baseline="from memory"),
        waiting=median(shares),
        images_per_second=config.batch / from_cache,
        peak_memory_mb=peak_memory_mb(),
    )


def _whole_batches(cache: FeatureCache, config: TrainConfig, epoch: int) -> list[Chosen]:
    return [chosen for chosen in epoch_order(config, cache, epoch) if len(chosen[0]) == config.batch]


def _targets(cache: FeatureCache, chosen: Chosen, matcher: Matcher | None) -> TargetBatch:
    """The objects of a batch as readers hand them over, so that both sides learn the same boxes in the same way."""
    targets = TargetBatch.of(cache.targets(*one) for one in zip(*chosen, strict=True))
    return targets if matcher is None else replace(targets, prepared=dict(matcher(targets)))
