"""Curvature: object borders as high curvature of the feature manifold.

Hypothesis: inside an object, and inside background, features vary slowly, while at a border they turn from one place
of feature space to another: the surface (x, y) -> (x, y, f(x, y)) over the image is nearly flat inside and bends at
the border. Its curvature is measured, not learned: Gaussian curvature, squared mean curvature and area element of a
projected, smoothed map, three channels a level, tell the towers where borders are, and gate the cells by objectness.

Sources: do Carmo. Riemannian Geometry. 1992, chapter 6 (Gauss equation). Features as such a surface: Sochen, Kimmel,
Malladi. A General Framework for Low Level Vision. 1998 (Beltrami flow). phanerozoic/detection-heads, row
``curvature``. Refuted if the head does as well with the three channels set to zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import FinerLevel, conv_norm, conv_norm_relu, join_main, joined_channels
from detheads.headkit.dense import PyramidConfig, PyramidHead
from detheads.headkit.octaves import octave_levels, octave_strides
from detheads.headkit.registry import register

LEVELS = 5

GATE_KERNEL = 7
"""Cells over which the gate looks for borders on all sides."""


@dataclass(frozen=True)
class Config(PyramidConfig):
    """Options of ``curvature``.

    Attributes:
        dimensions: of the feature space in which curvature is measured.
    """

    dimensions: PositiveInt = 16


@register(Config)
class CurvatureHead(PyramidHead):
    """Towers that are told where the feature manifold bends."""

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        width = config.width
        super().__init__(spec, num_classes, octave_strides(spec, LEVELS), config, config.assigner)
        self.project = conv_norm_relu(joined_channels(spec), width, 1)
        self.finer = FinerLevel(spec, width)
        self.manifold = conv_norm(width, config.dimensions, 1)
        self.mix = conv_norm_relu(width + 3, width, 3)
        self.gate = nn.Conv2d(3, 1, GATE_KERNEL, padding=GATE_KERNEL // 2)

    def levels(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Five maps ``[B, width, H, W]``, strides s/2 to 8s."""
        joined = self.project(join_main(features, self.spec))
        return [self.bend(level) for level in octave_levels(joined, self.finer, features, LEVELS)]

    def bend(self, level: Tensor) -> Tensor:
        """One level ``[B, width, H, W]`` that knows its curvature."""
        shape = curvature(smooth(self.manifold(level).float()))
        channels = torch.cat((_signed_log(shape.gaussian), shape.mean_squared.log1p(), shape.area.log()), dim=1)
        mixed: Tensor = self.mix(torch.cat((level, channels.to(level.dtype)), dim=1))
        return mixed * self.gate(channels).sigmoid()  # [B, width, H, W]


class Curvature(NamedTuple):
    """The surface at each cell, ``[B, 1, H, W]`` each; lengths in cells and units of the features.

    Attributes:
        gaussian: intrinsic curvature ``K``.
        mean_squared: ``|H|^2`` of the mean curvature vector ``H``, half the trace of the second fundamental form.
        area: of the surface over one cell, 1 where it is flat and level.
    """

    gaussian: Tensor
    mean_squared: Tensor
    area: Tensor


def curvature(f: Tensor) -> Curvature:
    """Curvature of the surface (x, y) -> (x, y, f(x, y)) in ``2 + C`` dimensions, by central differences.

    With the metric ``g = I + J^T J`` and the components ``n`` of the second derivatives normal to the surface, the
    Gauss equation gives ``K = (<f_xx^n, f_yy^n> - |f_xy^n|^2) / det g``. The map is continued over its border by its
    outermost cells.

    Args:
        f: ``[B, C, H, W]``, one length unit a cell.
    """
    height, width = f.shape[2:]
    padded = F.pad(f, (1, 1, 1, 1), mode="replicate")

    def shifted(x: int, y: int) -> Tensor:
        return padded[:, :, 1 + y : 1 + y + height, 1 + x : 1 + x + width]

    left, right, above, below = shifted(-1, 0), shifted(1, 0), shifted(0, -1), shifted(0, 1)
    f_x, f_y = (right - left) / 2, (below - above) / 2  # [B, C, H, W]
    f_xx, f_yy = right - 2 * f + left, below - 2 * f + above
    f_xy = (shifted(1, 1) - shifted(-1, 1) - shifted(1, -1) + shifted(-1, -1)) / 4

    xx, yy, xy = _dot(f_x, f_x), _dot(f_y, f_y), _dot(f_x, f_y)  # [B, 1, H, W]
    # det(I + J^T J), the last term never below zero (Cauchy-Schwarz), which rounding could make it.
    determinant = 1 + xx + yy + (xx * yy - xy.square()).clamp(min=0)

    def normal(second: Tensor) -> Tensor:
        """The part of (0, 0, second) that is normal to the tangents (1, 0, f_x) and (0, 1, f_y)."""
        along_x, along_y = _dot(second, f_x), _dot(second, f_y)
        x = ((1 + yy) * along_x - xy * along_y) / determinant
        y = ((1 + xx) * along_y - xy * along_x) / determinant
        return torch.cat((-x, -y, second - x * f_x - y * f_y), dim=1)  # [B, 2 + C, H, W]

    n_xx, n_yy, n_xy = normal(f_xx), normal(f_yy), normal(f_xy)
    mean = ((1 + yy) * n_xx - 2 * xy * n_xy + (1 + xx) * n_yy) / (2 * determinant)
    gaussian = (_dot(n_xx, n_yy) - _dot(n_xy, n_xy)) / determinant
    return Curvature(gaussian, _dot(mean, mean), determinant.sqrt())


def smooth(x: Tensor) -> Tensor:
    """Mean of 3x3 cells, the outermost ones continued; differences of raw features are mostly noise."""
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=1, keepdim=True)


def _signed_log(x: Tensor) -> Tensor:
    return x.sign() * x.abs().log1p()
