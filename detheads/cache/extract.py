"""Features of some pictures: decoded, put through the backbone, turned into what is stored."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from detheads.backbones.backbone import Backbone
from detheads.cache.images import OnBad, OnRemark, batches
from detheads.cache.manifest import Settings
from detheads.cache.storage import FLIPPED_SUFFIX, encode, require_finite
from detheads.data.dataset import ImageRecord
from detheads.foundation.errors import UserError


@torch.inference_mode()
def extract(
    records: Sequence[ImageRecord],
    backbone: Backbone,
    settings: Settings,
    batch_size: int,
    on_bad: OnBad,
    advance: Callable[[int], None],
    on_remark: OnRemark = None,
) -> tuple[dict[ImageRecord, str], dict[str, Tensor]]:
    """The tensors of one shard, filled batch by batch.

    Args:
        on_bad: told of each picture that cannot be used, which gets no row.
        advance: told how many pictures were done.
        on_remark: told what looks wrong about a picture that is used.

    Returns:
        The digest of each picture that has a row, in their order, and the tensors, ``[rows, ...]`` each.

    Raises:
        UserError: when a picture gives features that cannot be stored, or what ``on_bad`` raises.
    """
    shard: dict[str, Tensor] = {}
    # Convolutions run about twice as fast on a CPU with channels last; transformers gain nothing from it.
    memory_format = torch.channels_last if len(settings.main) > 1 else torch.contiguous_format
    backbone.to(memory_format=memory_format)
    device = next(backbone.buffers()).device
    keys: dict[ImageRecord, str] = {}
    left_out = 0

    def leave_out(record: ImageRecord, error: UserError) -> None:
        nonlocal left_out
        on_bad(record, error)
        left_out += 1

    for batch in batches(records, settings.height, settings.width, batch_size, leave_out, on_remark=on_remark):
        filled, count = len(keys), len(batch.records)
        inputs = backbone.normalise(batch.pixels.to(device)).contiguous(memory_format=memory_format)
        views = [("", inputs)]
        if settings.flips:
            views.append((FLIPPED_SUFFIX, inputs.flip(3)))
        for suffix, view in views:
            maps: dict[str, Tensor] = backbone(view)
            for name, values in maps.items():
                features = values.float().cpu()
                stored = encode(name + suffix, features, settings.dtype)
                require_finite(name, features, stored, [record.path for record in batch.records])
                for key, rows in stored.items():
                    if key not in shard:
                        shard[key] = torch.empty(len(records), *rows.shape[1:], dtype=rows.dtype)
                    shard[key][filled : filled + count] = rows
        keys |= zip(batch.records, batch.digests, strict=True)
        advance(count + left_out)
        left_out = 0
    advance(left_out)
    return keys, {key: values[: len(keys)] for key, values in shard.items()}
