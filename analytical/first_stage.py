"""The first stage of the closed-form detector: at each cell log-odds of each class, an anchor, and a box from it."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detheads.analytical.anchors import ANCHORS, decode
from detheads.analytical.config import Config
from detheads.backbones.features import FeatureSpec
from detheads.headkit.blocks import join_main, join_stride, joined_channels
from detheads.headkit.contract import Head
from detheads.headkit.grids import OnGrids
from detheads.ops.cofiber import decompose, low_passes
from detheads.ops.decisions import decide

PLACE = 2
"""Inputs that ridge regressions get besides features: the cell's centre, x and y."""


class FirstStage(OnGrids, Head):
    """A discriminant, anchor classifiers and box regressions on the levels of the cofiber decomposition.

    Attributes:
        anchors: ``[A, 2]`` width and height, input pixels.
        center, components: ``[C]`` and ``[C, components]``, of the principal components of the joined map.
        dimensions: numbers that the stage sees of a cell.
    """

    anchors: Tensor
    center: Tensor
    components: Tensor

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        super().__init__()
        self.spec, self.config, self.num_classes = spec, config, num_classes
        channels, stride = joined_channels(spec), join_stride(spec)
        self.lay_grids(spec.height, spec.width, [stride * 2**level for level in range(config.levels)])
        self.register_buffer("anchors", torch.ones(ANCHORS, 2))
        self.register_buffer("center", torch.zeros(channels))
        self.register_buffer("components", torch.zeros(channels, config.components))
        self.dimensions = channels if config.view == "bands" else 9 * config.components
        if config.classifier == "lda":
            self.classifier: nn.Module = Discriminant(self.dimensions, num_classes, _groups(config))
        else:
            self.classifier = Mixture(self.dimensions, num_classes, config.levels)
        inputs = self.dimensions + PLACE
        self.anchor_weight = nn.Parameter(torch.zeros(config.levels, inputs, ANCHORS))
        self.anchor_bias = nn.Parameter(torch.zeros(config.levels, ANCHORS))
        self.box_weight = nn.Parameter(torch.zeros(inputs, ANCHORS * 4))
        self.box_bias = nn.Parameter(torch.zeros(ANCHORS * 4))

    def level_rows(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """What the first stage sees of each cell: ``[B, cells, dimensions]`` a level, finest first."""
        joined = join_main(features, self.spec)
        if self.config.view == "bands":
            levels = decompose(joined, self.config.levels)
        else:  # averaging and projecting commute, and projecting first is cheaper
            levels = [neighbourhood(level) for level in low_passes(self.compress(joined), self.config.levels)]
        return [level.flatten(2).transpose(1, 2) for level in levels]

    def compress(self, joined: Tensor) -> Tensor:
        """Principal components of the joined map: ``[B, C, H, W]`` -> ``[B, components, H, W]``."""
        return F.conv2d(joined - self.center[:, None, None], self.components.T[:, :, None, None])

    def proposals(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The first stage: a box a cell, ``[B, N, 4]`` xyxy in input pixels, and its log-odds ``[B, N, K]``."""
        rows = self.level_rows(features)
        logits = torch.cat([self.classifier(level, index) for index, level in enumerate(rows)], dim=1)
        batch = logits.shape[0]
        place = self.places().expand(batch, -1, -1)  # [B, N, 2]
        everything = torch.cat((torch.cat(rows, dim=1), place), dim=2)  # [B, N, dimensions + 2]
        shares = torch.cat(
            [
                level @ weight + bias
                for level, weight, bias in zip(
                    everything.split(self.points_per_level, dim=1), self.anchor_weight, self.anchor_bias, strict=True
                )
            ],
            dim=1,
        )  # [B, N, A]
        offsets = (everything @ self.box_weight + self.box_bias).unflatten(2, (ANCHORS, 4))  # [B, N, A, 4]
        if self.config.anchor == "hard":
            best = decide(shares, lambda shares: shares.argmax(dim=2, keepdim=True), dim=2)  # [B, N, 1]
            chosen = offsets.gather(2, best.unsqueeze(3).expand(-1, -1, -1, 4)).squeeze(2)
            return decode(chosen, self.points, self.anchors[best.squeeze(2)]), logits
        weights = shares.clamp(min=1e-6)
        boxes = decode(offsets, self.points[:, None], self.anchors)  # [B, N, A, 4]
        return (boxes * (weights / weights.sum(dim=2, keepdim=True)).unsqueeze(3)).sum(dim=2), logits

    def places(self) -> Tensor:
        """Centres of all cells as shares of the input, from -1/2 to 1/2: ``[N, 2]``."""
        return self.points / self.points.new_tensor([self.spec.width, self.spec.height]) - 0.5


def _groups(config: Config) -> list[int]:
    """For each level the discriminant that it uses."""
    return [0 if config.directions == "shared" else level for level in range(config.levels)]


class Discriminant(nn.Module):
    """Log-odds of each class against background: ``x @ w + b``, one discriminant for all levels or one each."""

    def __init__(self, dimensions: int, num_classes: int, groups: Sequence[int]) -> None:
        super().__init__()
        self.groups = list(groups)
        count = max(self.groups) + 1
        self.weight = nn.Parameter(torch.zeros(count, dimensions, num_classes))
        self.bias = nn.Parameter(torch.zeros(count, num_classes))

    def forward(self, rows: Tensor, level: int) -> Tensor:
        group = self.groups[level]
        return rows @ self.weight[group] + self.bias[group]  # [B, cells, K]


class Mixture(nn.Module):
    """Log-odds from Gaussian mixtures: background and each class have one Gaussian a level.

    ``log p(x | component) = log share + log |W| - |(x - mean) W|^2 / 2`` where ``W W^T`` is the inverse covariance.
    """

    whitening: Tensor

    def __init__(self, dimensions: int, num_classes: int, levels: int) -> None:
        super().__init__()
        self.whitening = nn.Parameter(torch.zeros(1 + num_classes, levels, dimensions, dimensions))
        self.mean = nn.Parameter(torch.zeros(1 + num_classes, levels, dimensions))
        self.log_share = nn.Parameter(torch.zeros(1 + num_classes, levels))  # log |W| included

    def forward(self, rows: Tensor, level: int) -> Tensor:  # the mixture is the same on every level
        classes = []
        for whitening, mean, share in zip(self.whitening, self.mean, self.log_share, strict=True):
            parts = [
                constant - ((rows - middle) @ matrix).square().sum(dim=2) / 2
                for matrix, middle, constant in zip(whitening, mean, share, strict=True)
            ]
            classes.append(torch.stack(parts, dim=2).logsumexp(dim=2))  # [B, cells]
        densities = torch.stack(classes, dim=2)
        return densities[..., 1:] - densities[..., :1]


def neighbourhood(features: Tensor) -> Tensor:
    """Each cell's 3x3 neighbours side by side, edges repeated: ``[B, C, H, W]`` -> ``[B, 9 C, H, W]``."""
    height, width = features.shape[2:]
    padded = F.pad(features, (1, 1, 1, 1), mode="replicate")
    return torch.cat([padded[:, :, y : y + height, x : x + width] for y in range(3) for x in range(3)], dim=1)
