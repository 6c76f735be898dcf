"""Speed of training from a cache against training on features in memory."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from pathlib import Path

from detheads.bench.memory import peak_memory_mb
from detheads.cache.reader import FeatureCache
from detheads.foundation.errors import UserError
from detheads.foundation.timing import Contender, take_turns
from detheads.targets.objects import TargetBatch
from detheads.training.batches import Batch, epoch_order, read_batches
from detheads.training.config import TrainConfig
from detheads.training.trainer import Trainer

RUNS = 3
WARM_UP_STEPS = 2


@dataclass(frozen=True)
class TrainBench:
    """Runs of ``steps`` training steps fed by the cache against runs on features in memory; median seconds a step.

    ``ratio`` is ``from_cache / from_memory``. Baseline: the same steps on one batch of features in memory. A run begins
    like an epoch, with nothing read ahead, and its reader has the time of its own steps, no more.
    """

    steps: int
    batch: int
    from_cache: float
    from_memory: float
    ratio: float
    peak_memory_mb: float


def bench_train(cache: FeatureCache, head: str, options: dict[str, str], batch: int, steps: int) -> TrainBench:
    """Take turns between runs whose features come from the cache and runs on one batch in memory.

    Raises:
        UserError: when the cache holds less than one batch.
    """
    if len(cache) < batch:
        raise UserError(
            f"{cache.folder} holds {len(cache)} images, less than a batch of {batch}; use a smaller --batch."
        )
    config = TrainConfig(epochs=1, batch=batch)
    order = _whole_batches(cache, config)
    held = Batch(cache.features(*next(order)), _targets(cache, *next(order)))

    def train(batches: Iterable[Batch]) -> None:
        for fed in batches:
            trainer.optimise(fed)

    def rounds() -> Iterator[Mapping[str, Contender]]:
        for length in (WARM_UP_STEPS, *[steps] * RUNS):
            taken = list(islice(order, length))
            in_memory = [replace(held, targets=_targets(cache, *images)) for images in taken]
            fed = read_batches(cache, taken, matcher=trainer.head.matcher())
            yield {"from memory": partial(train, in_memory), "from cache": partial(train, fed)}

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(head, options, cache, cache, Path(folder) / "run", config)
        # The learning rate stays above zero however many steps the bench takes.
        trainer.total_steps = max(trainer.total_steps, 4 * (WARM_UP_STEPS + RUNS * steps))
        timing = take_turns(rounds())
    from_cache, from_memory = (timing.median(name) / steps for name in ("from cache", "from memory"))
    return TrainBench(steps, batch, from_cache, from_memory, from_cache / from_memory, peak_memory_mb())


def _whole_batches(cache: FeatureCache, config: TrainConfig) -> Iterator[tuple[list[int], list[bool]]]:
    """The full batches of one epoch after another, without end."""
    for epoch in count():
        for indices, flips in epoch_order(config, cache, epoch):
            if len(indices) == config.batch:
                yield indices, flips


def _targets(cache: FeatureCache, indices: list[int], flips: list[bool]) -> TargetBatch:
    """The objects of some images: steps on features in memory match the same boxes as those from the cache."""
    return TargetBatch.of(cache.targets(index, flip) for index, flip in zip(indices, flips, strict=True))
