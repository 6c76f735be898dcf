"""The cofiber decomposition: a feature map as an exact sum of frequency bands, one an octave, without a parameter.

    residual_0 = f
    low_i      = average_pool_2(residual_i)
    band_i     = residual_i - upsample(low_i)         at stride s * 2^i
    residual_(i+1) = low_i
    the last band is the last residual

Each step loses nothing: ``residual_i = band_i + upsample(residual_(i+1))``, whatever the upsampling is. The name is
the category-theoretic one of the source (phanerozoic/cofiber-detection): the band is the cofiber of the inclusion of
the low-pass part. It stands where a detector usually learns a feature pyramid.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor


def upsample_to(low: Tensor, like: Tensor) -> Tensor:
    """Bilinear upsampling (half-pixel centres) of ``low`` ``[B, C, h, w]`` to the height and width of ``like``."""
    return F.interpolate(low, size=like.shape[-2:], mode="bilinear", align_corners=False)


def decompose(features: Tensor, bands: int) -> list[Tensor]:
    """Split ``[B, C, H, W]`` into ``bands`` maps; band ``i`` is ``[B, C, ceil(H / 2^i), ceil(W / 2^i)]``, finest first.

    Raises:
        ValueError: when ``bands`` is below 1.
    """
    residuals = low_passes(features, bands)
    return [finer - upsample_to(low, finer) for finer, low in pairwise(residuals)] + residuals[-1:]


def low_passes(features: Tensor, count: int) -> list[Tensor]:
    """The residuals of the decomposition, ``features`` first; each is the average of 2x2 cells of the one before.

    Raises:
        ValueError: when ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"a decomposition has at least one band, not {count}")
    residuals = [features]
    for _ in range(count - 1):
        height, width = residuals[-1].shape[-2:]
        odd = height % 2 == 1 or width % 2 == 1
        # ceil_mode only where it matters: engines differ in how they pool a padded border.
        residuals.append(F.avg_pool2d(residuals[-1], 2, ceil_mode=odd, count_include_pad=False))
    return residuals
