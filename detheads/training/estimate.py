"""How long a training will take, told from its first steps, and what a smaller head would take beside it."""

import time
from dataclasses import dataclass, replace

import torch

from detheads.cache.reader import FeatureCache
from detheads.headkit import registry
from detheads.training.batches import epoch_order, read_batches
from detheads.training.config import TrainConfig
from detheads.training.learner import Learner

SMALL_HEAD = "slim_fcos"
"""The head that is tried where the chosen one is slow."""
FIRST_STEPS = 5
"""Steps that an estimate rests on; the first one is left out, since it warms caches up."""
LONG_SECONDS = 60.0
"""A training that takes less needs no estimate."""
SLOW_SECONDS = 600.0
"""A training that takes this long is compared with :data:`SMALL_HEAD`."""
WORTH_NAMING = 0.5
"""The small head is named when a step of it takes at most this share."""


@dataclass
class Estimate:
    """Counts steps as they are taken.

    Attributes:
        steps_per_epoch, total_steps: of the training.
        step_seconds: of a step, once :data:`FIRST_STEPS` were taken.
    """

    steps_per_epoch: int
    total_steps: int
    step_seconds: float | None = None
    _since: float = 0.0
    _taken: int = -1

    def advance(self) -> bool:
        """Count a step; True once, when the estimate is there."""
        self._taken += 1
        if self._taken == 0:
            self._since = time.monotonic()
        elif self._taken == FIRST_STEPS and self.step_seconds is None:
            self.step_seconds = (time.monotonic() - self._since) / FIRST_STEPS
            return True
        return False

    @property
    def total_seconds(self) -> float:
        return (self.step_seconds or 0.0) * self.total_steps

    @property
    def sentence(self) -> str:
        """Seconds an epoch and in all, evaluations left out."""
        epoch = (self.step_seconds or 0.0) * self.steps_per_epoch
        return f"about {_span(epoch)} an epoch and {_span(self.total_seconds)} in all, evaluations left out"


def small_head_seconds(cache: FeatureCache, config: TrainConfig, device: torch.device) -> float | None:
    """Seconds of a step of :data:`SMALL_HEAD` on these features, measured here; None where a cache has one batch only.

    Random numbers that a running training draws stay as they would be.
    """
    order = epoch_order(replace(config, flips=0.0), cache, 0)[:2]
    if len(order) < 2:
        return None
    with torch.random.fork_rng():
        head = registry.build(SMALL_HEAD, cache.feature_spec, len(cache.dataset.categories))
        learner = Learner(head, config, [len(order)], device)
        seconds = 0.0
        for batch in read_batches(cache, order, matcher=head.matcher(), device=device):
            began = time.monotonic()
            losses = learner.optimise(batch)
            float(next(iter(losses.values())))  # waits for the device
            seconds = time.monotonic() - began  # of the second step
    return seconds


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
