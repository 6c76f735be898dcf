"""Cascade pool: scales from a cascade of poolings, without a feature pyramid network.

Hypothesis: over features of a strong frozen encoder, going from one scale to the next needs no learned convolution.
Each level is a pooling of the one below, in which every channel learns how far it keeps the strongest of four cells
(maximum: is it there?) and how far their mean (average: how much of it?). Context comes from pooling too: a cascade of
stride-1 maxima sees 3x3 and 7x7 cells around each, and one 1x1 convolution, shared by all levels, mixes them.

Sources: He, Zhang, Ren, Sun. Spatial Pyramid Pooling in Deep Convolutional Networks. 2015. The cascade in place of
parallel poolings: ultralytics, SPPF. The learned mix of both poolings: Lee, Gallagher, Tu. Generalizing Pooling
Functions in Convolutional Neural Networks. AISTATS 2016. phanerozoic/detection-heads, row ``cascade_pool``.
Refuted if strided convolutions between the levels (``downsample=strided``) do better, and in its parts if averages
(``downsample=average``) or levels without context (``context=false``) do as well, in ``detheads arena run --heads
cascade_pool --with-controls``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import FinerLevel, conv_norm, conv_norm_relu, join_main, joined_channels
from detheads.headkit.controls import NEARLY, Control
from detheads.headkit.dense import PyramidConfig, PyramidHead
from detheads.headkit.octaves import octave_strides
from detheads.headkit.registry import register
from detheads.ops.cofiber import low_passes

POOLED_LEVELS = 3
"""Levels above the backbone's own stride."""

CONTEXT_WINDOWS = (3, 5)
"""Windows of the stride-1 cascade; one after the other they reach over 3 and 7 cells."""


@dataclass(frozen=True)
class Config(PyramidConfig):
    """Options of ``cascade_pool``.

    Attributes:
        downsample: from level to level, by ``pool`` of maximum and average, by ``average`` alone, or by ``strided`` 3x3
            convolutions.
        context: levels see what lies around each cell.
    """

    downsample: Literal["pool", "average", "strided"] = "pool"
    context: bool = True


@register(Config)
class CascadePool(PyramidHead):
    """Scales and context by pooling alone, two shared towers."""

    controls = MappingProxyType(
        {
            "pooling": Control(
                "From scale to scale no convolution has to be learned.", {"downsample": "strided"}, allowance=NEARLY
            ),
            "maximum": Control("The strongest of four cells says what their mean does not.", {"downsample": "average"}),
            "context": Control("Maxima around each cell are context enough to help.", {"context": False}),
        }
    )

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        super().__init__(spec, num_classes, octave_strides(spec, POOLED_LEVELS + 2), config, config.assigner)
        self.project = conv_norm_relu(joined_channels(spec), config.width, 1)
        self.finer = FinerLevel(spec, config.width)
        self.downsample = config.downsample
        if self.downsample == "pool":
            self.gates = nn.Parameter(torch.zeros(POOLED_LEVELS, config.width))
        elif self.downsample == "strided":
            width = config.width
            self.strided = nn.ModuleList(conv_norm_relu(width, width, 3, stride=2) for _ in range(POOLED_LEVELS))
        self.context = PoolingContext(config.width) if config.context else nn.Identity()

    def levels(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Five maps ``[B, width, H, W]``, strides s/2 to 8s."""
        cascade = self.cascade(self.project(join_main(features, self.spec)))
        return [self.context(level) for level in (self.finer(cascade[0], features), *cascade)]

    def cascade(self, x: Tensor) -> list[Tensor]:
        """The map ``[B, width, H, W]``, and what it becomes at 2, 4 and 8 times its stride."""
        if self.downsample == "average":
            return low_passes(x, POOLED_LEVELS + 1)
        levels = [x]
        if self.downsample == "strided":
            for downsample in self.strided:
                levels.append(downsample(levels[-1]))
        else:
            for gate in self.gates.unbind():
                levels.append(mixed_pool(levels[-1], gate))
        return levels


class PoolingContext(nn.Module):
    """What lies around each cell: a cascade of stride-1 maxima beside the map itself, mixed by a 1x1 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = conv_norm((1 + len(CONTEXT_WINDOWS)) * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for window in CONTEXT_WINDOWS:
            seen.append(local_maximum(seen[-1], window))
        return F.relu(x + self.mix(torch.cat(seen, dim=1)))  # [B, width, H, W]


def local_maximum(x: Tensor, window: int) -> Tensor:
    """The maximum of ``window`` x ``window`` cells around each, along x and then along y: half the work of both."""
    rows = F.max_pool2d(x, (1, window), stride=1, padding=(0, window // 2))
    return F.max_pool2d(rows, (window, 1), stride=1, padding=(window // 2, 0))


def mixed_pool(x: Tensor, gate: Tensor) -> Tensor:
    """Halve ``[B, C, H, W]`` to ``[B, C, ceil(H / 2), ceil(W / 2)]`` by a mix of maximum and average of 2x2 cells.

    Args:
        gate: ``[C]`` logit of the maximum's share; the border cells of odd sizes pool what there is.
    """
    # ceil_mode only where it matters: engines differ in how they pool a padded border.
    odd = x.shape[2] % 2 == 1 or x.shape[3] % 2 == 1
    share = gate.sigmoid().view(1, -1, 1, 1)
    strongest = F.max_pool2d(x, 2, ceil_mode=odd)
    return share * strongest + (1 - share) * F.avg_pool2d(x, 2, ceil_mode=odd, count_include_pad=False)
