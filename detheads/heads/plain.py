"""Plain: octaves and towers, and no idea.

What remains of the other dense heads once their ideas are turned off: the backbone's maps projected once, averages of
them at coarser strides, a finer level, and FCOS's two towers with its loss and the labels of ATSS. It claims nothing,
and what is claimed elsewhere has to beat it: ``optimal_transport``, ``scale_classify`` and ``mutual_attention`` without
their ideas are this head to the last bit.

Sources: Tian, Shen, Chen, He. FCOS. ICCV 2019 (towers, loss). Zhang et al. Bridging the Gap Between Anchor-based and
Anchor-free Detection via Adaptive Training Sample Selection. CVPR 2020 (labels).
"""

from dataclasses import dataclass

from pydantic import PositiveInt

from detheads.backbones.features import FeatureSpec
from detheads.headkit.dense import PyramidConfig
from detheads.headkit.octaves import OctaveHead
from detheads.headkit.registry import register


@dataclass(frozen=True)
class Config(PyramidConfig):
    """Options of ``plain``.

    Attributes:
        levels: an octave apart, the finest of half the stride of the joined map.
    """

    levels: PositiveInt = 4


@register(Config)
class Plain(OctaveHead):
    """Octaves and two towers, no idea: what the others are without theirs."""

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        super().__init__(spec, num_classes, config.levels, config, config.assigner)
