"""Features of some pictures: decoded, put through the backbone, turned into what is stored."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from detheads.backbones.backbone import Backbone
from detheads.backbones.features import DEPTH
from detheads.cache.depth import DepthMaps
from detheads.cache.images import Batch, OnBad, OnRemark, batches
from detheads.cache.manifest import Settings
from detheads.cache.storage import FLIPPED_SUFFIX, encode, require_finite
from detheads.data.dataset import ImageRecord
from detheads.foundation.ahead import map_ahead
from detheads.foundation.errors import UserError
from detheads.ops.threads import compute_alone

Item = TypeVar("Item")


class Waiting:
    """Counts the seconds in which somebody waited for the next item."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, one after another."""
        left = iter(items)
        while True:
            began = time.perf_counter()
            try:
                item = next(left)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - began
            yield item


@torch.inference_mode()
def extract(
    records: Sequence[ImageRecord],
    backbone: Backbone,
    settings: Settings,
    batch_size: int,
    on_bad: OnBad,
    advance: Callable[[int], None],
    on_remark: OnRemark = None,
    waiting: Waiting | None = None,
    depth: DepthMaps | None = None,
) -> tuple[dict[ImageRecord, str], dict[str, Tensor]]:
    """The tensors of one shard, filled batch by batch: by a thread, while the backbone works on the next one.

    Args:
        on_bad: told of each picture that cannot be used, which gets no row.
        advance: told how many pictures were done.
        on_remark: told what looks wrong about a picture that is used.
        waiting: counts the seconds in which the backbone waits for decoded pictures.
        depth: maps that lie beside the features.

    Returns:
        The digest of each picture that has a row, in their order, and the tensors, ``[rows, ...]`` each.

    Raises:
        UserError: when a picture gives features that cannot be stored, or what ``on_bad`` raises.
    """
    # Convolutions run about twice as fast on a CPU with channels last; transformers gain nothing from it.
    memory_format = torch.channels_last if len(settings.main) > 1 else torch.contiguous_format
    backbone.to(memory_format=memory_format)
    device = next(backbone.buffers()).device
    shard: dict[str, Tensor] = {}
    keys: dict[ImageRecord, str] = {}
    left_out = 0

    def leave_out(record: ImageRecord, error: UserError) -> None:
        nonlocal left_out
        on_bad(record, error)
        left_out += 1

    def computed() -> Iterator[tuple[Batch, dict[str, Tensor]]]:
        height, width, pin = settings.height, settings.width, device.type == "cuda"
        pictures = batches(records, height, width, batch_size, leave_out, on_remark=on_remark, pin=pin)
        for batch in (waiting or Waiting()).over(pictures):
            pixels = batch.pixels.to(device, non_blocking=True)
            inputs = backbone.normalise(pixels).contiguous(memory_format=memory_format)
            maps: dict[str, Tensor] = backbone(inputs)
            if settings.flips:
                maps |= {name + FLIPPED_SUFFIX: values for name, values in backbone(inputs.flip(3)).items()}
            yield batch, maps

    def stored(ran: tuple[Batch, dict[str, Tensor]]) -> tuple[Batch, dict[str, Tensor]]:
        batch, maps = ran
        if depth is not None:
            beside = depth.on_grid(batch.records, settings)
            maps = {**maps, DEPTH: beside} | ({DEPTH + FLIPPED_SUFFIX: beside.flip(3)} if settings.flips else {})
        return batch, _stored(batch, maps, settings)

    for batch, rows in map_ahead(stored, computed(), ahead=1, start=compute_alone):
        for key, values in rows.items():
            if key not in shard:
                shard[key] = torch.empty(len(records), *values.shape[1:], dtype=values.dtype)
            shard[key][len(keys) : len(keys) + len(values)] = values
        keys |= zip(batch.records, batch.digests, strict=True)
        advance(len(batch.records) + left_out)
        left_out = 0
    advance(left_out)
    return keys, {key: values[: len(keys)] for key, values in shard.items()}


@torch.inference_mode()  # which holds for one thread only
def _stored(batch: Batch, maps: Mapping[str, Tensor], settings: Settings) -> dict[str, Tensor]:
    """What a shard holds of a batch, on the CPU. It is computed on the device of the maps: less travels from there."""
    rows: dict[str, Tensor] = {}
    paths = [record.path for record in batch.records]
    for name, values in maps.items():
        features = values.float()
        encoded = encode(name, features, settings.dtype)
        require_finite(name, features, encoded, paths)
        rows |= {key: tensor.cpu() for key, tensor in encoded.items()}
    return rows
