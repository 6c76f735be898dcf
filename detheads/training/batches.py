"""Shuffled training batches from a cache, read ahead of the optimiser by a thread."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from detheads.cache.reader import FeatureCache
from detheads.foundation.ahead import map_ahead
from detheads.targets.objects import Targets
from detheads.training.config import TrainConfig

READ_AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """Features by layer ``[B, C, H / stride, W / stride]`` and the objects of each image."""

    features: dict[str, Tensor]
    targets: list[Targets]

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            {name: values.to(device, non_blocking=True) for name, values in self.features.items()},
            [target.to(device) for target in self.targets],
        )


def epoch_order(config: TrainConfig, count: int, epoch: int, can_flip: bool) -> list[tuple[list[int], list[bool]]]:
    """The batches of one epoch as (indices, flips). It depends on seed and epoch only, so a resumed run repeats it."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    order = torch.randperm(count, generator=generator)
    flips = torch.rand(count, generator=generator) < (config.flips if can_flip else 0.0)
    return [
        (indices.tolist(), flipped.tolist())
        for indices, flipped in zip(order.split(config.batch), flips.split(config.batch), strict=True)
    ]


def read_batches(cache: FeatureCache, order: list[tuple[list[int], list[bool]]]) -> Iterator[Batch]:
    """The batches of ``order``, read ahead of their use."""

    def read(chosen: tuple[list[int], list[bool]]) -> Batch:
        indices, flipped = chosen
        targets = [cache.targets(index, mirror) for index, mirror in zip(indices, flipped, strict=True)]
        return Batch(cache.features(indices, flipped), targets)

    return map_ahead(read, order, ahead=READ_AHEAD)
