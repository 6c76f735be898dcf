"""Slim FCOS: how much of the reference's capacity carries weight?

Hypothesis: over features of a strong frozen encoder, most of FCOS's 16.1M parameters are not needed. Half of them
rescale the map at the backbone's own width before it is projected; here it is projected first, so that the pyramid is
as narrow as the towers, and the towers are half as deep. All else (levels, assignment, loss) is ``fcos``.
At 768 channels and 80 classes the default has 1,045,530 parameters.

Sources: ``fcos.py`` and its papers; phanerozoic/detection-heads, row ``slim_fcos``. Refuted if it loses more than a
tenth of the AP of ``fcos`` trained on the same cache under the same budget.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import conv_norm
from detheads.headkit.registry import register
from detheads.heads import fcos


@dataclass(frozen=True)
class Config(fcos.Config):
    """Options of ``slim_fcos``: those of ``fcos``, narrower and shallower."""

    width: PositiveInt = 96
    tower_blocks: NonNegativeInt = 2


@register(Config)
class SlimFCOS(fcos.FCOS):
    """FCOS with a narrow pyramid and narrow, shallow towers."""

    def build_pyramid(self, spec: FeatureSpec, width: int) -> nn.Module:
        """The pyramid of ``fcos``; a plain transformer's map is projected to ``width`` before it."""
        return ProjectedPyramid(spec, width) if len(spec.main_layers) == 1 else fcos.TopDownPyramid(spec, width)


class ProjectedPyramid(nn.Module):
    """The simple pyramid over a map that was projected to ``width`` channels."""

    def __init__(self, spec: FeatureSpec, width: int) -> None:
        super().__init__()
        (layer,) = spec.main_layers
        self.layer = layer.name
        self.project = conv_norm(layer.channels, width, 1)
        self.pyramid = fcos.SimplePyramid(replace(spec, layers=(replace(layer, channels=width),)), width)

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        return self.pyramid({self.layer: self.project(features[self.layer])})  # 5 x [B, width, H, W]
