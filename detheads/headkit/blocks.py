"""Building blocks that several heads share."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.ops.cofiber import upsample_to


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 32 groups, or the largest smaller power of two that leaves two channels or more in each.

    A group of one channel would have a single value on a map of one cell, and nothing to normalise it against.
    """
    groups = 32
    while groups > 1 and (channels % groups or channels < 2 * groups):
        groups //= 2
    return nn.GroupNorm(groups, channels)


def conv_norm(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution with bias, then GroupNorm; keeps the size at stride 1."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups), group_norm(outputs)
    )


def conv_norm_relu(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """:func:`conv_norm`, then ReLU."""
    return nn.Sequential(*conv_norm(inputs, outputs, kernel, stride=stride, groups=groups), nn.ReLU(inplace=True))


class DepthwiseResidual(nn.Module):
    """``x + pointwise(depthwise(x))``, each with GroupNorm, ReLU between and after."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = conv_norm_relu(channels, channels, 3, groups=channels)
        self.pointwise = conv_norm(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.pointwise(self.depthwise(x)))  # [B, C, H, W]


class FinerLevel(nn.Module):
    """A map of half the joined grid's stride: one transposed convolution, and the backbone's own map of that stride
    where it has one."""

    def __init__(self, spec: FeatureSpec, width: int) -> None:
        super().__init__()
        own = [layer for layer in spec.main_layers if layer.stride * 2 == join_stride(spec)]
        self.upsample = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.layer = own[0].name if own else None
        self.lateral = conv_norm(own[0].channels, width, 1) if own else None

    def forward(self, x: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        """``[B, width, H, W]`` on the joined grid -> ``[B, width, 2H, 2W]``."""
        finer: Tensor = self.upsample(x)
        if self.layer is not None and self.lateral is not None:
            finer = finer + self.lateral(features[self.layer])
        return finer


class ChannelDropout(nn.Module):
    """Drop whole channels of the backbone's features while training: a small dataset is soon learned by heart."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.drop = nn.Dropout2d(probability)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.drop(values) for name, values in features.items()}


def joined_channels(spec: FeatureSpec) -> int:
    """Channels of :func:`join_main`'s result."""
    stride = join_stride(spec)
    return sum(layer.channels * max(1, stride // layer.stride) ** 2 for layer in spec.main_layers)


def join_stride(spec: FeatureSpec) -> int:
    """Stride of the grid on which :func:`join_main` joins the main layers."""
    return spec.join_stride


def join_main(features: Mapping[str, Tensor], spec: FeatureSpec) -> Tensor:
    """The main layers as one map ``[B, joined_channels, H, W]`` on one grid, without a parameter.

    Finer layers are folded (space to depth, nothing is lost), coarser ones upsampled bilinearly.
    """
    stride = join_stride(spec)
    reference = next(features[layer.name] for layer in spec.main_layers if layer.stride == stride)
    maps = []
    for layer in spec.main_layers:
        values = features[layer.name]
        if layer.stride < stride:
            values = F.pixel_unshuffle(values, stride // layer.stride)
        elif layer.stride > stride:
            values = upsample_to(values, reference)
        maps.append(values)
    return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)
