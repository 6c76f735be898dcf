"""Wavelet: an orthogonal wavelet transform in place of a feature pyramid.

Hypothesis: the scales of a detector can come from a fixed orthogonal transform: three steps of it give the
approximations at strides 2s, 4s and 8s together with the details that each step removed, so that no information is
lost or counted twice, as a learned pyramid and the cofiber bands (redundant by a third) do. Unlike those, a level
also knows in which direction its cells vary: along x, along y, or both.

Sources: Daubechies. Orthonormal Bases of Compactly Supported Wavelets. 1988. Mallat. A Theory for Multiresolution
Signal Decomposition. 1989 (``detheads/ops/wavelet.py``). phanerozoic/detection-heads, row ``wavelet``. Refuted if
approximations without details, or the cofiber bands in the same head, do as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import DepthwiseResidual, FinerLevel, conv_norm_relu, join_main, joined_channels
from detheads.headkit.dense import PyramidConfig, PyramidHead
from detheads.headkit.octaves import octave_strides
from detheads.headkit.registry import register
from detheads.ops import wavelet

STEPS = 3
"""Steps of the transform: the levels above the backbone's own stride."""


@dataclass(frozen=True)
class Config(PyramidConfig):
    """Options of ``wavelet``.

    Attributes:
        family: ``haar`` (2 taps) or ``db2`` (Daubechies' 4 taps, smooth where Haar is blocky).
    """

    family: wavelet.Family = "db2"


@register(Config)
class Wavelet(PyramidHead):
    """Scales and directions from an orthogonal wavelet transform, two shared towers."""

    bank: Tensor

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        width = config.width
        super().__init__(spec, num_classes, octave_strides(spec, STEPS + 2), config, config.assigner)
        self.register_buffer("bank", wavelet.filters(config.family), persistent=False)
        # Linear in the channels, so it commutes with the transform, which then has far fewer channels to work on.
        self.project = nn.Conv2d(joined_channels(spec), width, 1, bias=False)
        self.lateral = conv_norm_relu(width, width, 1)
        self.mix = conv_norm_relu(wavelet.BANDS * width, width, 1)
        self.stem = DepthwiseResidual(width)
        self.finer = FinerLevel(spec, width)

    def levels(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Five maps ``[B, width, H, W]``, strides s/2 to 8s."""
        approximation = self.project(join_main(features, self.spec)).float()
        levels = [self.stem(self.lateral(approximation))]
        for _ in range(STEPS):
            approximation, details = wavelet.analyse(approximation, self.bank)
            bands = torch.cat((approximation, details.flatten(1, 2)), dim=1)  # [B, 4 * width, H, W]
            levels.append(self.stem(self.mix(bands)))
        return [self.finer(levels[0], features), *levels]
