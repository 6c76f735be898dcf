"""Compression: how few bits of a feature map does detection need?

Hypothesis: of the hundreds of channels that a frozen encoder gives for each cell, detection needs a few dozen bits.
The head sees nothing but a code: a linear bottleneck to ``code`` channels, each rounded to one of ``levels`` values;
everything behind it, all scales included, is made from the dequantised code. Codes are the same in training and
evaluation, so ``bits_per_cell`` is what a cache or a wire would have to carry: 62.5 bits with the defaults, where
768 channels in fp16 have 12,288.

Sources: Mentzer, Minnen, Agustsson, Tschannen. Finite Scalar Quantization: VQ-VAE Made Simple. ICLR 2024 (arXiv
2309.15505); straight-through gradients: Bengio, Leonard, Courville. 2013. phanerozoic/detection-heads, row
``compression``. Refuted if more than a twentieth of the AP is lost to the rounding (``rounded=false`` has none) or to
the few channels (``bottleneck=false`` has as many as the towers) in ``detheads arena run --heads compression
--with-controls``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import conv_norm, conv_norm_relu, join_main, joined_channels
from detheads.headkit.controls import NEARLY, Control
from detheads.headkit.dense import PyramidConfig, PyramidHead
from detheads.headkit.octaves import octave_strides
from detheads.headkit.registry import register
from detheads.ops.decisions import decide

COARSER_LEVELS = 3
"""Levels above the code's own stride."""

FLOAT_BITS = 32
"""Of a value that is not rounded."""


@dataclass(frozen=True)
class Config(PyramidConfig):
    """Options of ``compression``.

    Attributes:
        code: channels of the code.
        bottleneck: of that many channels; else the code has as many as the towers.
        levels: values that a channel of the code can take; odd, so that zero is one of them.
        rounded: to those values; else the code is bounded and no more.
    """

    code: PositiveInt = 16
    bottleneck: bool = True
    levels: Annotated[int, Field(ge=3)] = 15
    rounded: bool = True


@register(Config)
class Compression(PyramidHead):
    """Detects from a code of a few bits a cell."""

    controls = MappingProxyType(
        {
            "rounding": Control("A few values a channel are enough.", {"rounded": False}, allowance=NEARLY),
            "bottleneck": Control("A few channels are enough.", {"bottleneck": False}, allowance=NEARLY),
        }
    )

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        width = config.width
        super().__init__(spec, num_classes, octave_strides(spec, COARSER_LEVELS + 2), config, config.assigner)
        self.code_channels = config.code if config.bottleneck else width
        self.quantiser: nn.Module = FiniteScalarQuantiser(config.levels) if config.rounded else nn.Tanh()
        # The scale of the code comes from its own norm: unscaled features would drive every value to the outer levels.
        self.bottleneck = conv_norm(joined_channels(spec), self.code_channels, 1)
        self.decoder = conv_norm_relu(self.code_channels, width, 3)
        # Not FinerLevel: its lateral would bring the backbone's own map past the code.
        self.finer = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.coarser = nn.ModuleList(conv_norm_relu(width, width, 3, stride=2) for _ in range(COARSER_LEVELS))

    @property
    def bits_per_cell(self) -> float:
        """Information of one cell's code, at most: bits."""
        if isinstance(self.quantiser, FiniteScalarQuantiser):
            return self.code_channels * math.log2(self.quantiser.levels)
        return self.code_channels * FLOAT_BITS

    def code(self, features: Mapping[str, Tensor]) -> Tensor:
        """The code ``[B, code, H, W]``, float32 values in ``[-1, 1]``: all that the rest of the head sees."""
        code: Tensor = self.quantiser(self.bottleneck(join_main(features, self.spec)).float())
        return code

    def levels(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Five maps ``[B, width, H, W]``, strides s/2 to 8s."""
        levels = [self.decoder(self.code(features))]
        for downsample in self.coarser:
            levels.append(downsample(levels[-1]))
        return [self.finer(levels[0]), *levels]


class FiniteScalarQuantiser(nn.Module):
    """Bound each value and round it to one of ``levels`` equally spaced ones in ``[-1, 1]``.

    Raises:
        ValueError: when ``levels`` is even or below 2.
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        if levels < 2 or levels % 2 == 0:
            raise ValueError(f"levels must be odd and at least 3, not {levels}")
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape, float32; the gradient is that of the bound."""
        half = self.levels // 2
        bounded = x.float().tanh() * half
        # Written so that the value is the rounded one to the last bit, and nothing of the unrounded one leaks.
        return (decide(bounded.detach(), torch.round) + (bounded - bounded.detach())) / half
