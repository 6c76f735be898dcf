"""Levels an octave apart from one projected map, without a pyramid to learn: what cheap dense heads start from."""

from collections.abc import Mapping

from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import FinerLevel, conv_norm, join_main, join_stride, joined_channels
from detheads.headkit.dense import Assigner, PyramidHead, TowerConfig
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
        return octave_levels(self.joined(features), self.finer, features, self.count)

    def joined(self, features: Mapping[str, Tensor]) -> Tensor:
        """The map ``[B, width, H, W]`` of stride s."""
        x: Tensor = self.project(join_main(features, self.spec))
        return x


class OctaveHead(PyramidHead):
    """A head with two towers on :class:`Octaves`.

    Args:
        count: number of levels, 1 or more; the finest has half the stride of the joined map.
        assigner: decides which points learn which objects, unless a sub-class does so itself.
    """

    def __init__(
        self, spec: FeatureSpec, num_classes: int, count: int, config: TowerConfig, assigner: Assigner
    ) -> None:
        super().__init__(spec, num_classes, octave_strides(spec, count), config, assigner)
        self.octaves = Octaves(spec, config.width, count)

    def levels(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """``count`` maps ``[B, width, H, W]``, strides s/2, s, 2s, ..."""
        levels: list[Tensor] = self.octaves(features)
        return levels


def octave_levels(x: Tensor, finer: FinerLevel, features: Mapping[str, Tensor], count: int) -> list[Tensor]:
    """The map ``[B, width, H, W]`` of stride s after the ``finer`` one of s/2, before its low-passes of 2s, 4s, ...:
    ``count`` levels, 1 or more."""
    return [finer(x, features), *(low_passes(x, count - 1) if count > 1 else [])]


def octave_strides(spec: FeatureSpec, count: int) -> list[float]:
    """Strides of so many octaves, input pixels."""
    return [join_stride(spec) / 2 * 2**level for level in range(count)]
