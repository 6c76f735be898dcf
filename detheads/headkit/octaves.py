"""Levels an octave apart from one projected map, without a pyramid to learn: what cheap dense heads start from."""

from collections.abc import Mapping

from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import FinerLevel, conv_norm, join_main, join_stride, joined_channels
from detheads.ops.cofiber import low_passes


class Octaves(nn.Module):
    """Strides s/2, s, 2s, ... (``count`` of them): the joined map projected once, its low-passes, and a finer level."""

    def __init__(self, spec: FeatureSpec, width: int, count: int) -> None:
        super().__init__()
        self.spec, self.count = spec, count
        self.project = conv_norm(joined_channels(spec), width, 1)
        self.finer = FinerLevel(spec, width)

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Backbone layers by name to ``[B, width, H, W]`` a level, finest first."""
        x = self.project(join_main(features, self.spec))  # [B, width, H, W] at stride s
        return [self.finer(x, features), *(low_passes(x, self.count - 1) if self.count > 1 else [])]


def octave_strides(spec: FeatureSpec, count: int) -> list[float]:
    """Strides of the levels of :class:`Octaves`, input pixels."""
    return [join_stride(spec) / 2 * 2**level for level in range(count)]
