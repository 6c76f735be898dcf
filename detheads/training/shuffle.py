"""A random order that reads a large cache shard by shard: a window over shuffled shards.

A cache that is larger than the memory is read from a disk or a network file system in every epoch, which are slow where
each image lies somewhere else. Here the images that are drawn at one time come from a few shards, which were chosen at
random, and each shard is done within a short part of the epoch.
"""

import torch
from torch import Generator, Tensor


def shuffled(shards: Tensor, window: float, generator: Generator) -> Tensor:
    """A random order of images ``[N]`` int64.

    Shards stand on a circle in random order. Each image moves on from its shard by a random part of the window, and
    images are taken as they then stand. So a batch draws from ``window`` shards alike, the first and the last one too,
    and every shard is read within a run of ``window`` shards; those that stand at the seam are read in two.

    The mean of any quantity over a batch of ``B`` images varies ``1 + (B - 1) / window`` times as much as with a whole
    shuffle at most, which is where all images of a shard are alike.

    Args:
        shards: ``[N]`` int64, the shard of each image.
        window: shards out of which images are drawn; all where it is no less than there are.
    """
    _, numbers = shards.unique(return_inverse=True)
    count = int(numbers.max()) + 1
    if window >= count:
        return torch.randperm(len(shards), generator=generator)
    stands = torch.randperm(count, generator=generator)[numbers]
    moved = stands + window * torch.rand(len(shards), generator=generator, dtype=torch.float64)
    return (moved % count).argsort(stable=True)
