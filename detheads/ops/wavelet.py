"""A two-dimensional orthogonal wavelet transform, as strided depthwise convolutions.

The map is continued periodically, for which the transform of an even size is an orthogonal matrix: it keeps the
energy, and its transpose is its inverse. Odd sizes are first lengthened by their last row or column.

Source: Daubechies. Orthonormal Bases of Compactly Supported Wavelets. 1988; Mallat 1989 (separable transform).
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Family = Literal["haar", "db2"]

BANDS = 4
"""Sub-bands of one step: the approximation LL and the details LH, HL, HH (first letter: along x)."""


def filters(family: Family, dtype: torch.dtype = torch.float32) -> Tensor:
    """The separable analysis filters ``[4, 1, T, T]`` of LL, LH, HL, HH; ``T`` is 2 (Haar) or 4 (Daubechies).

    Those of Daubechies have two vanishing moments: constants and linear ramps have no details.
    """
    if family == "haar":
        low = torch.tensor([1.0, 1.0], dtype=torch.float64) / math.sqrt(2)
    else:
        root = math.sqrt(3)
        low = torch.tensor([1 + root, 3 + root, 3 - root, 1 - root], dtype=torch.float64) / (4 * math.sqrt(2))
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(len(low) // 2)
    high = low.flip(0) * signs  # the quadrature mirror
    pairs = [(low, low), (low, high), (high, low), (high, high)]
    return torch.stack([torch.outer(along_y, along_x) for along_x, along_y in pairs])[:, None].to(dtype)


def analyse(x: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """One step of the transform.

    Args:
        x: ``[B, C, H, W]``.
        bank: of :func:`filters`.

    Returns:
        The approximation ``[B, C, H', W']`` and the details ``[B, C, 3, H', W']`` (LH, HL, HH), with
        ``H' = ceil(H / 2)`` and ``W' = ceil(W / 2)``.
    """
    channels, height, width = x.shape[1:]
    x = F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
    overlap = bank.shape[3] - 2
    if overlap:  # the periodic continuation
        x = torch.cat((x, x[:, :, :overlap]), dim=2)
        x = torch.cat((x, x[..., :overlap]), dim=3)
    bands = F.conv2d(x, bank.repeat(channels, 1, 1, 1), stride=2, groups=channels)  # [B, 4C, H', W']
    bands = bands.unflatten(1, (channels, BANDS))
    return bands[:, :, 0], bands[:, :, 1:]
