"""Training batches from a cache, read and brought to their device ahead of the optimiser by several threads."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detheads.cache.reader import FeatureCache
from detheads.cache.rows import StoredRows
from detheads.foundation.ahead import map_ahead
from detheads.foundation.cores import available_cores
from detheads.headkit.contract import Matcher
from detheads.ops.threads import compute_alone
from detheads.targets.objects import TargetBatch
from detheads.training.config import TrainConfig
from detheads.training.shuffle import shuffled

MOST_READERS = 8
"""Threads at most when nobody says how many. One brought 1.5 to 2.0 GB/s out of the system's memory (rows of 1.7 MB, a
busy core); a GPU that trains on 1,200 images of 3.5 MB a second needs 4.2."""
READY = 2
"""Batches that wait to be used besides those that are being read, so that a slow one is not noticed."""

Chosen = tuple[list[int], list[bool]]
"""Images of a batch, and for each whether it is mirrored."""


@dataclass(frozen=True)
class Batch:
    """Features by layer ``[B, C, H / stride, W / stride]`` float32 and the objects of the images, on one device."""

    features: Mapping[str, Tensor]
    targets: TargetBatch


def epoch_order(config: TrainConfig, cache: FeatureCache, epoch: int) -> list[Chosen]:
    """The batches of one epoch. They depend on the cache, seed and epoch only, so a resumed run repeats them."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    order = shuffled(torch.tensor(cache.shard_numbers), shuffle_window(config, cache), generator)
    share = config.flips if cache.can_mirror and config.mirror != "none" else 0.0
    flips = torch.rand(len(cache), generator=generator) < share
    return [
        (indices.tolist(), flipped.tolist())
        for indices, flipped in zip(order.split(config.batch), flips.split(config.batch), strict=True)
    ]


def shuffle_window(config: TrainConfig, cache: FeatureCache) -> float:
    """Shards out of which a batch is drawn; infinity where that is the whole cache."""
    held = len(cache) * cache.manifest.settings.bytes_per_image
    window = config.shuffle_window * 1e9
    return window / held * len(cache.manifest.shards) if 0 < window < held else math.inf


def default_readers() -> int:
    """Threads that read: half of the cores that this process may use, the others compute."""
    return max(1, min(MOST_READERS, available_cores() // 2))


def read_batches(
    cache: FeatureCache,
    order: Sequence[Chosen],
    *,
    matcher: Matcher | None = None,
    device: torch.device | None = None,
    readers: int | None = None,
) -> "BatchReader":
    """The batches of ``order`` on ``device`` (the CPU when None), read ahead of their use.

    Args:
        matcher: the head's, which is asked in the readers.
        readers: threads that read; :func:`default_readers` when None. They hold as many batches and :data:`READY`.
    """
    return BatchReader(cache, order, matcher, device or torch.device("cpu"), readers or default_readers())


class BatchReader(Iterator[Batch]):
    """Batches in order. When it is let go of, no further one is read.

    On a GPU rows travel in their stored type, from pinned memory and beside the computation, and become float32 there.

    Attributes:
        waited: seconds in which the user of the batches waited for the next one.
    """

    def __init__(
        self,
        cache: FeatureCache,
        order: Sequence[Chosen],
        matcher: Matcher | None,
        device: torch.device,
        readers: int,
    ) -> None:
        self.waited = 0.0
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        # The threads hold no reference to this object, whose end is theirs.
        read = _Reading(cache, matcher, device, self._stream)
        self._read = map_ahead(read, order, ahead=readers - 1 + READY, threads=readers, start=compute_alone)

    def __next__(self) -> Batch:
        began = time.perf_counter()
        try:
            arrived = next(self._read)
        finally:
            self.waited += time.perf_counter() - began
        if arrived.copied is not None:
            used = torch.cuda.current_stream(self._device)
            used.wait_event(arrived.copied)  # the stream waits, not this thread
            for tensor in arrived.tensors():
                tensor.record_stream(used)  # else its memory may be given away while it is still read
        features = arrived.rows.features() if isinstance(arrived.rows, StoredRows) else arrived.rows
        return Batch(features, arrived.targets)

    def close(self) -> None:
        """Read no further batch, and wait until the threads have ended."""
        self._read.close()


@dataclass(frozen=True)
class _Arrived:
    """A batch on its device; ``copied``: when all of it will be there, on a GPU."""

    rows: StoredRows | dict[str, Tensor]
    targets: TargetBatch
    copied: torch.cuda.Event | None

    def tensors(self) -> list[Tensor]:
        targets = self.targets
        rows = self.rows.tensors() if isinstance(self.rows, StoredRows) else list(self.rows.values())
        return [*rows, targets.boxes, targets.labels, targets.images, targets.places, *targets.prepared.values()]


@dataclass(frozen=True)
class _Reading:
    """What a reader does with the images of a batch."""

    cache: FeatureCache
    matcher: Matcher | None
    device: torch.device
    stream: torch.cuda.Stream | None

    def __call__(self, chosen: Chosen) -> _Arrived:
        indices, flipped = chosen
        targets = TargetBatch.of(self.cache.targets(*one) for one in zip(indices, flipped, strict=True))
        if self.matcher is not None:
            targets = replace(targets, prepared=dict(self.matcher(targets)))
        rows = self.cache.stored(indices, flipped, pin=self.stream is not None)
        if self.device.type == "cpu":
            return _Arrived(rows.features(), targets, None)
        if self.stream is not None:
            targets = targets.pinned()
        with torch.cuda.stream(self.stream) if self.stream is not None else nullcontext():
            rows, targets = rows.to(self.device), targets.to(self.device)
            return _Arrived(rows, targets, None if self.stream is None else self.stream.record_event())
