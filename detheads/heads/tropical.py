"""Tropical: towers that compute in the tropical semirings, where sums are minima and products are sums.

Hypothesis: whether an object is there depends on the strongest of several pieces of evidence ("any of these parts")
and on the weakest of several conditions ("all of them"), which weighted sums only imitate. A min-plus layer
``y_o = min_i (w_oi + x_i)`` followed by a max-plus layer computes any such and-or of shifted channels; over space the
same products are erosion and dilation with learned structuring elements, which find borders and fill holes.

Both towers are made of them, and of nothing else that could take their place: what a tower knows of the cells around
one comes from erosion and dilation, and its only nonlinearities are minima and maxima. Minima and maxima never fall
where their arguments rise, so a linear mix of the channels of each cell, which has signs, stands before them.

Sources: Maragos, Charisopoulos, Theodosis. Tropical Geometry and Machine Learning. Proc. IEEE 2021. Zhang, Naitzat,
Lim. Tropical Geometry of Deep Neural Networks. ICML 2018. Ritter, Sussner. An Introduction to Morphological Neural
Networks. ICPR 1996. Zhang et al. ShuffleNet. CVPR 2018 (groups whose members change). phanerozoic/detection-heads,
row ``tropical``. Refuted if the same weights as convolutions with ReLU (``semiring=linear``) do as well:
``detheads arena run --heads tropical --with-controls``.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import conv_norm, group_norm
from detheads.headkit.controls import Control
from detheads.headkit.dense import PyramidConfig, init_prediction
from detheads.headkit.octaves import OctaveHead
from detheads.headkit.prior import PRIOR_BIAS
from detheads.headkit.registry import register

LEVELS = 5


@dataclass(frozen=True)
class Config(PyramidConfig):
    """Options of ``tropical``.

    Attributes:
        tower_blocks: blocks in each tower.
        dimensions: channels that a minimum or maximum is taken over; the work of the towers grows with it.
        semiring: ``tropical``; ``linear`` makes sums of minima and maxima, products of sums, and puts ReLU between.
    """

    tower_blocks: NonNegativeInt = 3
    dimensions: PositiveInt = 16
    semiring: Literal["tropical", "linear"] = "tropical"


@register(Config)
class Tropical(OctaveHead):
    """Towers of min-plus and max-plus layers over channels, erosion and dilation over space."""

    controls = MappingProxyType(
        {
            "tropical": Control(
                "Minima and maxima of shifted evidence find more than weighted sums with ReLU.",
                {"semiring": "linear"},
            )
        }
    )

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        width, members = config.width, config.dimensions
        members = next(count for count in range(min(members, width), 0, -1) if width % count == 0)
        block = TropicalBlock if config.semiring == "tropical" else LinearBlock
        super().__init__(spec, num_classes, LEVELS, config, config.assigner)
        self.class_tower, self.box_tower = (
            nn.Sequential(*(block(width, members) for _ in range(config.tower_blocks))) for _ in range(2)
        )
        # Predictions see one cell, lest they be the convolution that the towers go without.
        self.classes = init_prediction(nn.Conv2d(width, num_classes, 1), bias=PRIOR_BIAS)
        self.distances = init_prediction(nn.Conv2d(width, 4, 1), bias=1.0)
        self.centerness = init_prediction(nn.Conv2d(width, 1, 1))


class Block(nn.Module, ABC):
    """Residual: linear mix of channels, then over space, then over channels twice.

    ``space`` is ``[C, 3, 3]``, one element a channel; ``every`` and ``some`` are ``[C / M, M, M]``, a matrix each for
    so many groups of ``M`` channels. Between the two, the members of all groups change places, so that each channel
    that comes out has heard of those of many groups.
    """

    def __init__(self, width: int, members: int) -> None:
        super().__init__()
        self.mix = conv_norm(width, width, 1)
        self.space = nn.Parameter(torch.zeros(width, 3, 3))
        self.every = nn.Parameter(torch.randn(width // members, members, members))
        self.some = nn.Parameter(torch.randn(width // members, members, members))
        self.norm = group_norm(width)

    def forward(self, x: Tensor) -> Tensor:
        combined = self.combine(self.mix(x).float())
        restored: Tensor = self.norm(combined)
        return x + restored  # [B, C, H, W]

    @abstractmethod
    def combine(self, x: Tensor) -> Tensor:
        """Mixed channels ``[B, C, H, W]`` to as many new ones."""


class TropicalBlock(Block):
    """Erosion of one half of the channels and dilation of the other; then all of some, and any of these."""

    def combine(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        seen = torch.cat((erode(x[:, :half], self.space[:half]), dilate(x[:, half:], self.space[half:])), dim=1)
        groups = seen.flatten(2).unflatten(1, self.every.shape[:2])  # [B, G, M, N]
        return max_plus(self.some, exchanged(min_plus(self.every, groups))).flatten(1, 2).view_as(x)


class LinearBlock(Block):
    """The same weights as convolutions with ReLU: over 3x3 cells of each channel, then over groups of channels."""

    def __init__(self, width: int, members: int) -> None:
        super().__init__(width, members)
        with torch.no_grad():  # as He et al. 2015 start layers before a ReLU
            self.space.normal_(std=(2 / 9) ** 0.5)
            for matrices in (self.every, self.some):
                matrices.mul_((2 / members) ** 0.5)

    def combine(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
        seen = F.conv2d(padded, self.space[:, None], groups=x.shape[1]).relu()
        groups = seen.flatten(2).unflatten(1, self.every.shape[:2])  # [B, G, M, N]
        return (self.some @ exchanged((self.every @ groups).relu())).flatten(1, 2).view_as(x)


def exchanged(groups: Tensor) -> Tensor:
    """``[B, G, M, N]`` with the members dealt out to the groups in turn, as cards are."""
    return groups.transpose(1, 2).flatten(1, 2).view_as(groups)


def min_plus(weight: Tensor, x: Tensor) -> Tensor:
    """Matrix products of the min-plus semiring, ``y_on = min_i (weight_oi + x_in)``.

    All sums are formed at once: ``B * ... * O * I * N`` values.

    Args:
        weight: ``[..., O, I]``.
        x: ``[B, ..., I, N]``.

    Returns:
        ``[B, ..., O, N]``.
    """
    sums = x.unsqueeze(-3) + weight.unsqueeze(-1)  # [B, ..., O, I, N]
    # Not amin: its gradient would need all sums again, that of min only the winners' indices.
    return sums.min(dim=-2).values


def max_plus(weight: Tensor, x: Tensor) -> Tensor:
    """The dual of :func:`min_plus`: ``y_on = max_i (weight_oi + x_in)``."""
    return (x.unsqueeze(-3) + weight.unsqueeze(-1)).max(dim=-2).values


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
