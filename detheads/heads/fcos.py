"""FCOS: the reference every other head is measured against.

One point of a feature pyramid = one candidate box, given by its distances to the four sides; a centerness branch
lowers the score of boxes seen from their rim.

On a plain transformer the pyramid is the simple feature pyramid (strides 8 to 128 synthesised from the one map of
stride 16); on a hierarchical network it is the usual FPN over its own maps. At 768 channels and 80 classes the
default has 16,138,074 parameters.

Sources: Tian, Shen, Chen, He. FCOS. ICCV 2019. Li, Mao, Girshick, He. Exploring Plain Vision Transformer Backbones
for Object Detection. ECCV 2022. Lin et al. Feature Pyramid Networks. CVPR 2017.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import conv_norm, conv_norm_relu, group_norm
from detheads.headkit.dense import Assigner, PyramidConfig, PyramidHead
from detheads.headkit.registry import register
from detheads.ops.cofiber import upsample_to


@dataclass(frozen=True)
class Config(PyramidConfig):
    """Options of ``fcos``: those of all heads with two towers, with the published defaults."""

    width: PositiveInt = 256
    tower_blocks: NonNegativeInt = 4
    assigner: Assigner = "fcos"


def usual_pyramid(spec: FeatureSpec, width: int) -> nn.Module:
    """Backbone layers by name to five maps ``[B, width, H, W]``."""
    return SimplePyramid(spec, width) if len(spec.main_layers) == 1 else TopDownPyramid(spec, width)


@register(Config)
class FCOS(PyramidHead):
    """Feature pyramid, two shared towers, one candidate box a point."""

    def __init__(
        self,
        spec: FeatureSpec,
        num_classes: int,
        config: Config,
        pyramid: Callable[[FeatureSpec, int], nn.Module] = usual_pyramid,  # variants bring their own
    ) -> None:
        super().__init__(spec, num_classes, pyramid_strides(spec), config, config.assigner)
        self.pyramid = pyramid(spec, config.width)

    def levels(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Five maps ``[B, width, H, W]``."""
        return self.pyramid(features)


def pyramid_strides(spec: FeatureSpec) -> list[float]:
    """Strides of the five levels: from half that of a plain transformer, or from a hierarchical network's finest."""
    layers = spec.main_layers
    base = layers[0].stride / 2 if len(layers) == 1 else layers[0].stride
    return [base * 2**level for level in range(5)]


class SimplePyramid(nn.Module):
    """Strides s/2, s, 2s, 4s, 8s from one map of stride s (Li et al. 2022)."""

    def __init__(self, spec: FeatureSpec, width: int) -> None:
        super().__init__()
        (layer,) = spec.main_layers
        self.layer, channels = layer.name, layer.channels
        self.finer = nn.Sequential(nn.ConvTranspose2d(channels, channels, 2, stride=2), group_norm(channels), nn.GELU())
        self.coarser = nn.Sequential(*conv_norm(channels, channels, 3, stride=2), nn.GELU())
        self.outputs = nn.ModuleList(
            nn.Sequential(conv_norm(channels, width, 1), conv_norm(width, width, 3)) for _ in range(3)
        )
        self.extra = nn.ModuleList(conv_norm_relu(width, width, 3, stride=2) for _ in range(2))

    def inputs(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The maps ``[B, C, H, W]`` of stride s from which strides s/2, s and 2s are made."""
        x = features[self.layer]
        return x, x, x

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        fine, same, coarse = self.inputs(features)
        scaled = (self.finer(fine), same, self.coarser(coarse))
        levels = [output(level) for output, level in zip(self.outputs, scaled, strict=True)]
        for downsample in self.extra:
            levels.append(downsample(levels[-1]))
        return levels


class TopDownPyramid(nn.Module):
    """FPN over the maps of a hierarchical network, continued by strided convolutions to five levels."""

    def __init__(self, spec: FeatureSpec, width: int) -> None:
        super().__init__()
        layers = spec.main_layers
        self.layers = [layer.name for layer in layers]
        self.laterals = nn.ModuleList(conv_norm(layer.channels, width, 1) for layer in layers)
        self.outputs = nn.ModuleList(conv_norm(width, width, 3) for _ in layers)
        self.extra = nn.ModuleList(conv_norm_relu(width, width, 3, stride=2) for _ in range(5 - len(layers)))

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        laterals = [lateral(features[name]) for name, lateral in zip(self.layers, self.laterals, strict=True)]
        merged = [laterals[-1]]
        for lateral in reversed(laterals[:-1]):
            merged.insert(0, lateral + upsample_to(merged[0], lateral))
        levels = [output(level) for output, level in zip(self.outputs, merged, strict=True)]
        for downsample in self.extra:
            levels.append(downsample(levels[-1]))
        return levels
