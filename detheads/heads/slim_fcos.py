"""Slim FCOS: how much of the reference's capacity carries weight?

Hypothesis: over features of a strong frozen encoder, most of FCOS's 16.1M parameters are not needed. Half of them
rescale the map at the backbone's own width before it is projected; here it is projected first, so that the pyramid is
as narrow as the towers, and the towers are half as deep. All else (levels, assignment, loss) is ``fcos``.
At 768 channels and 80 classes the default has 1,045,530 parameters.

Sources: ``fcos.py`` and its papers; phanerozoic/detection-heads, row ``slim_fcos``. Refuted if it loses more than a
tenth of the AP of a pyramid as wide as the backbone (``projected=false``; a plain transformer's only), or of ``fcos``
as a whole, in ``detheads arena run --heads slim_fcos --with-controls``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import conv_norm
from detheads.headkit.controls import Control
from detheads.headkit.registry import register
from detheads.heads import fcos

ALLOWANCE = 0.1
"""Share of its AP that a fifteenth of the parameters may cost."""


@dataclass(frozen=True)
class Config(fcos.Config):
    """Options of ``slim_fcos``: those of ``fcos``, narrower and shallower.

    Attributes:
        projected: a plain transformer's map is projected before the pyramid; else as in ``fcos``, behind it.
    """

    width: PositiveInt = 96
    tower_blocks: NonNegativeInt = 2
    projected: bool = True


@register(Config)
class SlimFCOS(fcos.FCOS):
    """FCOS with a narrow pyramid and narrow, shallow towers."""

    controls = MappingProxyType(
        {
            "projected": Control(
                "A pyramid need not be as wide as the backbone.", {"projected": False}, allowance=ALLOWANCE
            ),
            "slim": Control(
                "Most of the parameters of FCOS are not needed.",
                {"projected": False, "width": 256, "tower_blocks": 4},
                allowance=ALLOWANCE,
            ),
        }
    )

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        projected = config.projected and len(spec.main_layers) == 1
        super().__init__(spec, num_classes, config, ProjectedPyramid if projected else fcos.usual_pyramid)


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
