"""Curvature: object borders as high curvature of the feature manifold, and boxes read from them.

Hypothesis: inside an object, and inside background, features vary slowly, while at a border they turn from one place
of feature space to another: the surface (x, y) -> (x, y, f(x, y)) over the image is nearly flat inside and bends at
the border. Its curvature is measured, not learned: Gaussian curvature, squared mean curvature and area element of a
projected, smoothed map, three channels a level.

Detection is read from these channels alone. They make each cell more or less opaque to rays along x and along y; how
far the rays of a cell get to the left, top, right and bottom before a border stops them is its box, and whether they
are stopped at all, with the channels around the cell, is its objectness. The towers say which class it is and move
each edge by a factor of two at most, so a box whose borders do not bend cannot be found by them.

Sources: do Carmo. Riemannian Geometry. 1992, chapter 6 (Gauss equation). Features as such a surface: Sochen, Kimmel,
Malladi. A General Framework for Low Level Vision. 1998 (Beltrami flow). Rays through soft borders: Mildenhall et al.
NeRF. ECCV 2020, equation 3. phanerozoic/detection-heads, row ``curvature``. Refuted if three learned channels in place
of the measured ones (``borders=learned``) or towers without rays (``borders=none``) do as well:
``detheads arena run --heads curvature --with-controls``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import conv_norm
from detheads.headkit.contract import HeadOutput
from detheads.headkit.controls import Control
from detheads.headkit.dense import PyramidConfig, init_prediction
from detheads.headkit.octaves import OctaveHead
from detheads.headkit.registry import register

LEVELS = 5

REACH = 8
"""Cells that a ray goes at most. Objects are about eight cells wide at the level that finds them (ATSS)."""
CORRECTION = log(2.0)
"""How far the box tower moves the logarithm of a distance at most."""
WALL = 4.0
"""Density beyond the map, whose border ends every ray: one part in 55 gets through a cell of it."""
START_DENSITY = -1.0
"""Before softplus, at the start: rays get 2.9 cells far, about as far as other dense heads begin with (e strides)."""
MAX_DENSITY = 10.0
"""Beyond this a cell lets nothing through in any precision."""


@dataclass(frozen=True)
class Config(PyramidConfig):
    """Options of ``curvature``.

    Attributes:
        dimensions: of the feature space in which curvature is measured.
        borders: what rays meet: the measured ``curvature``, or as many ``learned`` channels; ``none`` leaves the towers
            alone, without rays.
    """

    dimensions: PositiveInt = 16
    borders: Literal["curvature", "learned", "none"] = "curvature"


@register(Config)
class CurvatureHead(OctaveHead):
    """Boxes and objectness read from where the feature manifold bends, along rays from each cell."""

    controls = MappingProxyType(
        {
            "curvature": Control(
                "Borders are where features bend: measured there, they serve better than learned ones.",
                {"borders": "learned"},
            ),
            "rays": Control("Boxes read from borders are better than those of towers alone.", {"borders": "none"}),
        }
    )

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        width = config.width
        super().__init__(spec, num_classes, LEVELS, config, config.assigner)
        self.borders = config.borders
        if config.borders == "none":
            return
        nn.init.zeros_(self.distances.bias)  # type: ignore[arg-type]  # the rays have a size of their own
        self.manifold = conv_norm(width, config.dimensions, 1)
        self.learned = nn.Conv2d(config.dimensions, 3, 3, padding=1) if config.borders == "learned" else None
        self.density = nn.Conv2d(3, 2, 3, padding=1)
        nn.init.constant_(self.density.bias, START_DENSITY)  # type: ignore[arg-type]
        self.objectness = init_prediction(nn.Conv2d(7, 1, 3, padding=1))

    def predict(self, levels: Sequence[Tensor]) -> HeadOutput:
        """Classes and small corrections from the towers, boxes and objectness from the rays."""
        if self.borders == "none":
            return super().predict(levels)
        for_boxes = [self.box_tower(level) for level in levels]
        channels = [self.channels(level) for level in levels]
        reached = [self.reached(level) for level in channels]
        return self.decode(
            [
                self.classes(self.class_tower(level)).float() + self.objectness(torch.cat((rays / REACH, bent), dim=1))
                for level, rays, bent in zip(levels, reached, channels, strict=True)
            ],
            [
                rays.log() + CORRECTION * self.distances(level).float().tanh()
                for level, rays in zip(for_boxes, reached, strict=True)
            ],
            [self.centerness(level) for level in for_boxes],
        )

    def channels(self, level: Tensor) -> Tensor:
        """What tells borders from the rest, ``[B, 3, H, W]``, of a level ``[B, width, H, W]``."""
        projected = smooth(self.manifold(level).float())
        if self.learned is not None:
            learned: Tensor = self.learned(projected)
            return learned.float()
        shape = curvature(projected)
        return torch.cat((_signed_log(shape.gaussian), shape.mean_squared.log1p(), shape.area.log()), dim=1)

    def reached(self, channels: Tensor) -> Tensor:
        """How far rays get to the left, top, right and bottom of each cell, ``[B, 4, H, W]``, in cells."""
        return free_paths(F.softplus(self.density(channels).float()).clamp(max=MAX_DENSITY))


def free_paths(density: Tensor) -> Tensor:
    """Mean length of a ray from the centre of each cell to the left, top, right and bottom, in cells.

    A ray starts in its own cell, is through ``j`` further ones with the probability ``exp(-sum of their densities)``,
    and ends on the border of the one that stops it, so that its mean length is the sum of these probabilities over
    ``j``, less the half of its own cell. None goes further than :data:`REACH`.

    Args:
        density: ``[B, 2, H, W]``, not below zero: of a cell for rays along x, and for rays along y.

    Returns:
        ``[B, 4, H, W]``, from 0.5 to ``REACH - 0.5``.
    """
    sums = torch.ones(REACH - 1, REACH - 1, device=density.device).tril()[:, None, None]  # of the next j cells
    beyond = F.pad(density, (REACH - 1,) * 4, value=WALL)
    inner = slice(REACH - 1, 1 - REACH)
    along_x, along_y = beyond[:, :1, inner], beyond[:, 1:, :, inner].mT  # [B, 1, H, W + 2 R], [B, 1, W, H + 2 R]

    def forward(rows: Tensor) -> Tensor:
        """Of rays towards larger indices along the last dimension."""
        met = F.conv2d(rows[..., REACH:], sums).float()  # [B, R - 1, H, W]
        return 0.5 + (-met).exp().sum(dim=1, keepdim=True)

    left, right = forward(along_x.flip(3)).flip(3), forward(along_x)
    top, bottom = forward(along_y.flip(3)).flip(3).mT, forward(along_y).mT
    return torch.cat((left, top, right, bottom), dim=1)


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
