"""Wavelet: an orthogonal wavelet transform in place of a feature pyramid.

Hypothesis: the scales of a detector can come from a fixed orthogonal transform: three steps of it give the
approximations at strides 2s, 4s and 8s together with the details that each step removed, so that no information is
lost or counted twice, as a learned pyramid and the cofiber bands (redundant by a third) do. Unlike those, a level
also knows in which direction its cells vary: along x, along y, or both.

Sources: Daubechies. Orthonormal Bases of Compactly Supported Wavelets. 1988. Mallat. A Theory for Multiresolution
Signal Decomposition. 1989 (``detheads/ops/wavelet.py``). phanerozoic/detection-heads, row ``wavelet``. Refuted if
approximations without details (``scales=approximations``), or averages and the cofiber bands that they lack in the same
head (``scales=bands``), do as well in ``detheads arena run --heads wavelet --with-controls``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import DepthwiseResidual, FinerLevel, conv_norm_relu, join_main, joined_channels
from detheads.headkit.controls import Control
from detheads.headkit.dense import PyramidConfig, PyramidHead
from detheads.headkit.octaves import octave_strides
from detheads.headkit.registry import register
from detheads.ops import wavelet
from detheads.ops.cofiber import low_passes, upsample_to

STEPS = 3
"""Steps of the transform: the levels above the backbone's own stride."""


@dataclass(frozen=True)
class Config(PyramidConfig):
    """Options of ``wavelet``.

    Attributes:
        family: ``haar`` (2 taps) or ``db2`` (Daubechies' 4 taps, smooth where Haar is blocky).
        scales: ``wavelet``, its ``approximations`` alone, or averages with the cofiber ``bands`` that they lack, folded
            to their stride.
    """

    family: wavelet.Family = "db2"
    scales: Literal["wavelet", "approximations", "bands"] = "wavelet"


MIXED = {"wavelet": wavelet.BANDS, "approximations": 1, "bands": 5}
"""Maps of which a level is mixed: a band of the finer stride is four of the coarser."""


@register(Config)
class Wavelet(PyramidHead):
    """Scales and directions from an orthogonal wavelet transform, two shared towers."""

    controls = MappingProxyType(
        {
            "details": Control("What each step removes, by direction, helps.", {"scales": "approximations"}),
            "orthogonal": Control("An orthogonal transform does better than redundant bands.", {"scales": "bands"}),
        }
    )
    bank: Tensor

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        width = config.width
        super().__init__(spec, num_classes, octave_strides(spec, STEPS + 2), config, config.assigner)
        self.scales = config.scales
        self.register_buffer("bank", wavelet.filters(config.family), persistent=False)
        # Linear in the channels, so it commutes with the transform, which then has far fewer channels to work on.
        self.project = nn.Conv2d(joined_channels(spec), width, 1, bias=False)
        self.lateral = conv_norm_relu(width, width, 1)
        self.mix = conv_norm_relu(MIXED[config.scales] * width, width, 1)
        self.stem = DepthwiseResidual(width)
        self.finer = FinerLevel(spec, width)

    def levels(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Five maps ``[B, width, H, W]``, strides s/2 to 8s."""
        approximation = self.project(join_main(features, self.spec)).float()
        levels = [self.stem(self.lateral(approximation))]
        for _ in range(STEPS):
            approximation, details = self.step(approximation)
            levels.append(self.stem(self.mix(torch.cat((approximation, *details), dim=1))))
        return [self.finer(levels[0], features), *levels]

    def step(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """A map ``[B, width, H, W]`` at half its size, and what it lacks: maps ``[B, n * width, H / 2, W / 2]``."""
        if self.scales == "bands":
            _, low = low_passes(x, 2)
            band = F.pad(x - upsample_to(low, x), (0, x.shape[3] % 2, 0, x.shape[2] % 2), mode="replicate")
            return low, [F.pixel_unshuffle(band, 2)]
        approximation, details = wavelet.analyse(x, self.bank)
        return approximation, [details.flatten(1, 2)] if self.scales == "wavelet" else []
