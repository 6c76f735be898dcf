"""Tropical: a head that computes in the tropical semirings, where sums are minima and products are sums.

Hypothesis: whether an object is there depends on the strongest of several pieces of evidence ("any of these parts")
and on the weakest of several conditions ("all of them"), which weighted sums only imitate. A min-plus layer
``y_o = min_i (w_oi + x_i)`` followed by a max-plus layer computes any such and-or of shifted channels; over space the
same products are erosion and dilation with learned structuring elements, which find borders and fill holes.

Sources: Maragos, Charisopoulos, Theodosis. Tropical Geometry and Machine Learning. Proc. IEEE 2021. Zhang, Naitzat,
Lim. Tropical Geometry of Deep Neural Networks. ICML 2018. Ritter, Sussner. An Introduction to Morphological Neural
Networks. ICPR 1996. phanerozoic/detection-heads, row ``tropical``. Refuted if the head with 1x1 convolutions and ReLU
in place of its tropical layers, at equal parameters, does as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import FinerLevel, conv_norm, conv_norm_relu, join_main, joined_channels
from detheads.headkit.dense import PyramidConfig, PyramidHead
from detheads.headkit.octaves import octave_strides
from detheads.headkit.registry import register
from detheads.ops.cofiber import low_passes

JOINED_LEVELS = 4
"""Levels from the backbone's own stride up."""


@dataclass(frozen=True)
class Config(PyramidConfig):
    """Options of ``tropical``.

    Attributes:
        dimensions: channels of the tropical layers; their work grows with its square.
        blocks: min-plus, max-plus blocks.
    """

    dimensions: PositiveInt = 32
    blocks: NonNegativeInt = 1


@register(Config)
class Tropical(PyramidHead):
    """Min-plus and max-plus layers over channels, erosion and dilation over space."""

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        width = config.width
        super().__init__(spec, num_classes, octave_strides(spec, JOINED_LEVELS + 1), config, config.assigner)
        self.project = conv_norm_relu(joined_channels(spec), width, 1)
        self.channels = nn.Sequential(*(ChannelBlock(width, config.dimensions) for _ in range(config.blocks)))
        self.finer = FinerLevel(spec, width)
        self.space = SpaceBlock(width, config.dimensions)

    def levels(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Five maps ``[B, width, H, W]``, strides s/2 to 8s."""
        joined = [
            self.channels(level) for level in low_passes(self.project(join_main(features, self.spec)), JOINED_LEVELS)
        ]
        return [self.space(level) for level in (self.finer(joined[0], features), *joined)]


class ChannelBlock(nn.Module):
    """Residual: linear mix, min-plus, max-plus, linear."""

    def __init__(self, width: int, dimensions: int) -> None:
        super().__init__()
        self.mix = conv_norm(width, dimensions, 1)
        self.every = nn.Parameter(torch.randn(dimensions, dimensions))
        self.some = nn.Parameter(torch.randn(dimensions, dimensions))
        self.restore = conv_norm(dimensions, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mix(x).float()  # [B, D, H, W]
        tropical = max_plus(self.some, min_plus(self.every, mixed.flatten(2))).view_as(mixed)
        return F.relu(x + self.restore(tropical))  # [B, width, H, W]


class SpaceBlock(nn.Module):
    """Residual: linear mix, erosion beside dilation of each channel, linear."""

    def __init__(self, width: int, dimensions: int) -> None:
        super().__init__()
        self.mix = conv_norm(width, dimensions, 1)
        self.eroding = nn.Parameter(torch.zeros(dimensions, 3, 3))  # flat, as the structuring element of a pooling
        self.dilating = nn.Parameter(torch.zeros(dimensions, 3, 3))
        self.restore = conv_norm(2 * dimensions, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mix(x).float()  # [B, D, H, W]
        both = torch.cat((erode(mixed, self.eroding), dilate(mixed, self.dilating)), dim=1)  # [B, 2D, H, W]
        return F.relu(x + self.restore(both))  # [B, width, H, W]


def min_plus(weight: Tensor, x: Tensor) -> Tensor:
    """The matrix product of the min-plus semiring, ``y_on = min_i (weight_oi + x_in)``.

    All sums are formed at once: ``B * O * I * N`` values.

    Args:
        weight: ``[O, I]``.
        x: ``[B, I, N]``.

    Returns:
        ``[B, O, N]``.
    """
    sums = x[:, None] + weight[:, :, None]  # [B, O, I, N]
    # Not amin: its gradient would need all sums again, that of min only the winners' indices.
    return sums.min(dim=2).values


def max_plus(weight: Tensor, x: Tensor) -> Tensor:
    """The dual of :func:`min_plus`: ``y_on = max_i (weight_oi + x_in)``."""
    return -min_plus(-weight, -x)


def dilate(x: Tensor, kernel: Tensor) -> Tensor:
    """Max-plus convolution of each channel: ``y(p) = max_k (x(p + k) + kernel(k))`` over 3x3 cells.

    Args:
        x: ``[B, C, H, W]``, continued over its border by its outermost cells.
        kernel: ``[C, 3, 3]``, the structuring element, centred.
    """
    height, width = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    shifted = [
        padded[:, :, row : row + height, column : column + width] + kernel[:, row, column, None, None]
        for row in range(3)
        for column in range(3)
    ]
    return torch.stack(shifted).max(dim=0).values


def erode(x: Tensor, kernel: Tensor) -> Tensor:
    """Min-plus convolution of each channel: ``y(p) = min_k (x(p + k) - kernel(k))``, see :func:`dilate`."""
    return -dilate(-x, kernel)
