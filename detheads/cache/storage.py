"""How features become bytes and float32 again: fp16, bf16, or int8 with a scale an image and channel."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from detheads.cache.manifest import Settings, StorageType
from detheads.foundation.errors import UserError

TORCH_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}

SCALE_SUFFIX = ".scale"
FLIPPED_SUFFIX = ".flipped"


def stored_tensors(settings: Settings) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Name -> type and shape, without the leading axis, of each tensor that is stored of a picture."""
    tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for layer in settings.layers:
        grid = settings.height // layer.stride, settings.width // layer.stride
        for name in (layer.name, layer.name + FLIPPED_SUFFIX) if settings.flips else (layer.name,):
            tensors[name] = TORCH_TYPES[settings.dtype], (layer.channels, *grid)
            if settings.dtype == "int8":
                tensors[name + SCALE_SUFFIX] = torch.float32, (layer.channels,)
    return tensors


def encode(name: str, features: Tensor, dtype: StorageType) -> dict[str, Tensor]:
    """Turn float32 features ``[B, C, H, W]``, all finite, into named tensors to store."""
    if dtype == "int8":
        scale = features.abs().amax(dim=(2, 3)).clamp(min=1e-12) / 127.0  # [B, C]
        quantised = torch.round(features / scale[:, :, None, None]).to(torch.int8)
        return {name: quantised, name + SCALE_SUFFIX: scale}
    return {name: features.to(TORCH_TYPES[dtype])}


def decode(stored: Tensor, scale: Tensor | None) -> Tensor:
    """Stored values (with their int8 scale ``[B, C]``) back to float32 ``[B, C, H, W]``."""
    features = stored.float()
    return features if scale is None else features.mul_(scale[:, :, None, None])


def first_not_finite(values: Tensor) -> int | None:
    """The first row of ``values`` ``[B, ...]`` that holds NaN or infinity; None when all is finite."""
    if math.isfinite(float(values.sum(dtype=torch.float32))):  # ten times as fast as looking at each value
        return None
    finite = torch.isfinite(values).flatten(1).all(1).tolist()  # a sum of finite values may overflow
    return None if all(finite) else finite.index(False)


def require_finite(name: str, features: Tensor, stored: dict[str, Tensor], pictures: Sequence[Path]) -> None:
    """Refuse to store what is no number.

    Args:
        features: float32 ``[B, C, H, W]``, as the backbone gave them.
        stored: what :func:`encode` made of them.
        pictures: the file of each row.

    Raises:
        UserError: naming the picture, when a feature is not finite, or too large for fp16.
    """
    bad = first_not_finite(features)
    if bad is not None:
        raise UserError(
            f"{pictures[bad]}: the backbone gives features that are not finite in layer {name}; check its weights."
        )
    for values in stored.values():
        if values.is_floating_point() and (bad := first_not_finite(values)) is not None:
            raise UserError(
                f"{pictures[bad]}: features of layer {name} exceed the range of fp16; store them with --dtype bf16."
            )
