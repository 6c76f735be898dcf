"""The inverses of the decompositions, which the product has no use for."""

import torch
import torch.nn.functional as F
from torch import Tensor

from detheads.ops.cofiber import upsample_to


def reconstruct(bands: list[Tensor]) -> Tensor:
    """The sum of cofiber bands, each brought to the finest grid step by step."""
    total = bands[-1]
    for band in reversed(bands[:-1]):
        total = band + upsample_to(total, band)
    return total


def synthesise(approximation: Tensor, details: Tensor, bank: Tensor, size: tuple[int, int]) -> Tensor:
    """The map ``[B, C, H, W]`` of ``size`` (height, width) that ``detheads.ops.wavelet.analyse`` split."""
    channels, height, width = approximation.shape[1], 2 * approximation.shape[2], 2 * approximation.shape[3]
    bands = torch.cat((approximation[:, :, None], details), dim=2).flatten(1, 2)  # [B, 4C, H', W']
    x = F.conv_transpose2d(bands, bank.repeat(channels, 1, 1, 1), stride=2, groups=channels)
    overlap = bank.shape[3] - 2
    if overlap:  # what reaches over the end belongs to the start
        x = torch.cat((x[:, :, :overlap] + x[:, :, height:], x[:, :, overlap:height]), dim=2)
        x = torch.cat((x[..., :overlap] + x[..., width:], x[..., overlap:width]), dim=3)
    return x[:, :, : size[0], : size[1]]
