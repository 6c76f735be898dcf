"""How features become bytes and float32 again: fp16, bf16, or int8 with a scale an image and channel."""

import torch
from torch import Tensor

from detheads.cache.manifest import StorageType
from detheads.foundation.errors import UserError

TORCH_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}

SCALE_SUFFIX = ".scale"
FLIPPED_SUFFIX = ".flipped"


def encode(name: str, features: Tensor, dtype: StorageType) -> dict[str, Tensor]:
    """Turn float32 features ``[B, C, H, W]`` into named tensors to store.

    Raises:
        UserError: when a feature is not finite, or too large for fp16.
    """
    if not torch.isfinite(features).all():
        raise UserError(f"the backbone gave features that are not finite in layer {name}; check its weights.")
    if dtype == "int8":
        scale = features.abs().amax(dim=(2, 3)).clamp(min=1e-12) / 127.0  # [B, C]
        quantised = torch.round(features / scale[:, :, None, None]).to(torch.int8)
        return {name: quantised, name + SCALE_SUFFIX: scale}
    stored = features.to(TORCH_TYPES[dtype])
    if not torch.isfinite(stored).all():
        raise UserError(f"features of layer {name} exceed the range of fp16; store them with --dtype bf16.")
    return {name: stored}


def decode(stored: Tensor, scale: Tensor | None) -> Tensor:
    """Stored values (with their int8 scale ``[B, C]``) back to float32 ``[B, C, H, W]``."""
    features = stored.float()
    return features if scale is None else features.mul_(scale[:, :, None, None])
