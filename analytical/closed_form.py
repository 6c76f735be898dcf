"""A detector that is solved, not trained: discriminant analysis finds objects, ridge regression places their boxes.

Hypothesis: features of a strong frozen encoder separate objects from background nearly linearly, so sums gathered in
one pass over a feature cache (``detheads/analytical/statistics.py``) already hold a detector, without gradient descent.

At each cell of each level of the cofiber decomposition, Fisher's linear discriminant gives the log-odds of each class
against background, with the true class shares as prior; a ridge regression for that level picks one of 15 anchor
shapes, and the ridge regression of that anchor gives the offsets of the box. That is the source's detector ("v3j";
104,854 parameters for one class at 768 channels). ``rounds`` go beyond it: the best boxes are looked at again, the
feature map sampled on a grid over each, and two more ridge regressions tell their IoU with an object and how to move
them, as R-CNN's box regression does (Girshick et al. 2014, appendix C).

Sources: phanerozoic/detection-heads (analytical_person_v3j); Fisher 1936; Hoerl & Kennard 1970. Refuted if a gradient-
trained head of equal size on the same cache is not clearly better: then training would be for nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detheads.analytical.anchors import ANCHORS, decode, sides_of
from detheads.analytical.regions import geometry_features, region_features
from detheads.backbones.features import FeatureSpec
from detheads.foundation.errors import UserError
from detheads.headkit.blocks import join_main, join_stride, joined_channels
from detheads.headkit.contract import Head, HeadOutput
from detheads.headkit.dense import grid_points
from detheads.headkit.registry import register
from detheads.ops.cofiber import decompose, low_passes
from detheads.ops.suppression import highest
from detheads.targets.objects import Targets

PLACE = 2
"""Inputs that ridge regressions get besides features: the cell's centre, x and y."""

LEAST_SCORE = 1e-4
"""Predicted IoUs are kept this far from 0 and 1, where a logit has no value."""


@dataclass(frozen=True)
class Config:
    """Options of ``closed_form``. The defaults are the source's detector.

    Attributes:
        levels: levels of the cofiber decomposition.
        view: ``bands`` gives a cell its frequency band; ``context`` the low-passed features of 3x3 cells, compressed.
        directions: one discriminant for all levels (``shared``), or one each (``per_level``).
        classifier: ``lda``, or ``gmm``: a Gaussian with a covariance of its own for each class and level, compared by
            Mahalanobis distance.
        covariance: the discriminant's covariance is the classes' mean one, weighted by their ``shares`` or ``equal``
            (the bias is calibrated to the true shares in either case).
        anchor: ``hard`` takes the best anchor, ``soft`` the mean of all, weighted by their predicted shares.
        components: principal components that ``context`` and ``rounds`` see; 0 where neither is used.
        rounds: times that the best boxes are scored and moved again.
        grid: samples along each side of a box, in a round.
        proposals: boxes that enter the rounds.
        hidden: random rectified features added to the inputs of each round.
        voting: a final box is the mean, weighted by score, of the boxes whose IoU with it is at least this; 0: off.
    """

    levels: int = 5
    view: Literal["bands", "context"] = "bands"
    directions: Literal["shared", "per_level"] = "shared"
    classifier: Literal["lda", "gmm"] = "lda"
    covariance: Literal["shares", "equal"] = "shares"
    anchor: Literal["hard", "soft"] = "hard"
    components: int = 0
    rounds: int = 0
    grid: int = 5
    proposals: int = 200
    hidden: int = 0
    voting: float = 0.0

    @property
    def compressed(self) -> bool:
        """Whether anything looks at principal components."""
        return self.view == "context" or self.rounds > 0


@register(Config)
class ClosedForm(Head):
    """Discriminant analysis, anchors and ridge regression on cofiber bands, without gradient descent."""

    trainable = False
    points: Tensor
    strides: Tensor
    anchors: Tensor
    center: Tensor
    components: Tensor

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        super().__init__()
        if config.levels < 1 or config.compressed != (config.components > 0):
            raise ValueError("components belong to view=context or rounds, which need some; levels are 1 or more")
        if min(config.grid, config.proposals) < 1 or config.voting > 1:
            raise ValueError("grid and proposals are 1 or more, voting is an IoU from 0 to 1")
        self.spec, self.config, self.num_classes = spec, config, num_classes
        channels, stride = joined_channels(spec), join_stride(spec)
        level_strides = [stride * 2**level for level in range(config.levels)]
        points = [grid_points(spec.height, spec.width, each) for each in level_strides]
        self.cells_per_level = [len(level) for level in points]
        self.register_buffer("points", torch.cat(points), persistent=False)  # [N, 2]
        strides = torch.repeat_interleave(torch.tensor(level_strides), torch.tensor(self.cells_per_level))
        self.register_buffer("strides", strides, persistent=False)  # [N]
        self.register_buffer("anchors", torch.ones(ANCHORS, 2))
        self.register_buffer("center", torch.zeros(channels))
        self.register_buffer("components", torch.zeros(channels, config.components))
        self.dimensions = channels if config.view == "bands" else 9 * config.components
        if config.classifier == "lda":
            self.classifier: nn.Module = Discriminant(self.dimensions, num_classes, self.groups)
        else:
            self.classifier = Mixture(self.dimensions, num_classes, config.levels)
        inputs = self.dimensions + PLACE
        self.anchor_weight = nn.Parameter(torch.zeros(config.levels, inputs, ANCHORS))
        self.anchor_bias = nn.Parameter(torch.zeros(config.levels, ANCHORS))
        self.box_weight = nn.Parameter(torch.zeros(inputs, ANCHORS * 4))
        self.box_bias = nn.Parameter(torch.zeros(ANCHORS * 4))
        region_inputs = config.components * config.grid**2 + num_classes + 7
        self.rounds = nn.ModuleList(Round(region_inputs, num_classes, config.hidden) for _ in range(config.rounds))

    @property
    def groups(self) -> list[int]:
        """For each level the discriminant that it uses."""
        shared = self.config.directions == "shared"
        return [0 if shared else level for level in range(self.config.levels)]

    def forward(self, features: Mapping[str, Tensor]) -> HeadOutput:
        boxes, logits = self.proposals(features)
        if self.config.rounds:
            boxes, scores = self.refined(features, boxes, logits, self.config.rounds)
            logits = scores.clamp(LEAST_SCORE, 1 - LEAST_SCORE).logit()
        if self.config.voting:
            boxes = vote(boxes, logits.sigmoid().amax(dim=2), self.config.voting)
        return HeadOutput(boxes, logits, None, {})

    def loss(self, output: HeadOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Refused: there is nothing to descend."""
        raise UserError("closed_form is not trained; fit it with 'detheads analytical fit'.")

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
                    everything.split(self.cells_per_level, dim=1), self.anchor_weight, self.anchor_bias, strict=True
                )
            ],
            dim=1,
        )  # [B, N, A]
        offsets = (everything @ self.box_weight + self.box_bias).unflatten(2, (ANCHORS, 4))  # [B, N, A, 4]
        if self.config.anchor == "hard":
            best = shares.argmax(dim=2, keepdim=True)  # [B, N, 1]
            chosen = offsets.gather(2, best.unsqueeze(3).expand(-1, -1, -1, 4)).squeeze(2)
            return decode(chosen, self.points, self.anchors[best.squeeze(2)]), logits
        weights = shares.clamp(min=1e-6)
        boxes = decode(offsets, self.points[:, None], self.anchors)  # [B, N, A, 4]
        return (boxes * (weights / weights.sum(dim=2, keepdim=True)).unsqueeze(3)).sum(dim=2), logits

    def places(self) -> Tensor:
        """Centres of all cells as shares of the input, from -1/2 to 1/2: ``[N, 2]``."""
        return self.points / self.points.new_tensor([self.spec.width, self.spec.height]) - 0.5

    def refined(
        self, features: Mapping[str, Tensor], boxes: Tensor, logits: Tensor, rounds: int
    ) -> tuple[Tensor, Tensor]:
        """The best proposals after some rounds: boxes ``[B, P, 4]`` and predicted IoUs ``[B, P, K]``."""
        base = self.compress(join_main(features, self.spec))
        boxes, scores = self.best(boxes, logits)
        for index in range(rounds):
            inputs = self.region_inputs(base, boxes, scores)
            scores, offsets = self.round(index)(inputs)
            boxes = self.moved(boxes, offsets)
        return boxes, scores

    def round(self, index: int) -> "Round":
        """The ridge regressions of one round."""
        found = self.rounds[index]
        assert isinstance(found, Round)
        return found

    def best(self, boxes: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The proposals of highest log-odds, cut at the input's edges: ``[B, P, 4]``, ``[B, P, K]``."""
        count = min(self.config.proposals, logits.shape[1])
        _, chosen = highest(logits.amax(dim=2), count)  # [B, P]
        boxes = boxes.gather(1, chosen.unsqueeze(2).expand(-1, -1, 4))
        return self.clipped(boxes), logits.gather(1, chosen.unsqueeze(2).expand(-1, -1, self.num_classes))

    def region_inputs(self, base: Tensor, boxes: Tensor, scores: Tensor) -> Tensor:
        """What a round sees of each box: ``[B, P, components * grid^2 + K + 7]``."""
        height, width = self.spec.height, self.spec.width
        sampled = region_features(base, boxes, self.config.grid, height, width)
        return torch.cat((sampled, scores, geometry_features(boxes, height, width)), dim=2)

    def moved(self, boxes: Tensor, offsets: Tensor) -> Tensor:
        """Boxes after offsets in units of their own sides, cut at the input's edges."""
        return self.clipped(decode(offsets, (boxes[..., :2] + boxes[..., 2:]) / 2, sides_of(boxes)))

    def clipped(self, boxes: Tensor) -> Tensor:
        """Boxes inside the input, at least a pixel on each side."""
        x1, y1, x2, y2 = boxes.unbind(dim=-1)
        left, top = x1.clamp(0, self.spec.width - 1), y1.clamp(0, self.spec.height - 1)
        right = torch.maximum(x2.clamp(max=self.spec.width), left + 1)
        bottom = torch.maximum(y2.clamp(max=self.spec.height), top + 1)
        return torch.stack((left, top, right, bottom), dim=-1)


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


class Round(nn.Module):
    """Ridge regressions of one round: predicted IoU with an object of each class, and box offsets."""

    random_weight: Tensor
    random_bias: Tensor

    def __init__(self, inputs: int, num_classes: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("random_weight", torch.zeros(inputs, hidden))
        self.register_buffer("random_bias", torch.zeros(hidden))
        self.score_weight = nn.Parameter(torch.zeros(inputs + hidden, num_classes))
        self.score_bias = nn.Parameter(torch.zeros(num_classes))
        self.offset_weight = nn.Parameter(torch.zeros(inputs + hidden, 4))
        self.offset_bias = nn.Parameter(torch.zeros(4))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.expand(inputs)
        return rows @ self.score_weight + self.score_bias, rows @ self.offset_weight + self.offset_bias

    def expand(self, inputs: Tensor) -> Tensor:
        """The inputs and their random rectified features ``relu(x R + r)``: ``[B, P, inputs + hidden]``."""
        if not self.random_bias.numel():
            return inputs
        return torch.cat((inputs, F.relu(inputs @ self.random_weight + self.random_bias)), dim=2)


def neighbourhood(features: Tensor) -> Tensor:
    """Each cell's 3x3 neighbours side by side, edges repeated: ``[B, C, H, W]`` -> ``[B, 9 C, H, W]``."""
    height, width = features.shape[2:]
    padded = F.pad(features, (1, 1, 1, 1), mode="replicate")
    return torch.cat([padded[:, :, y : y + height, x : x + width] for y in range(3) for x in range(3)], dim=1)


def vote(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """Each box as the mean of those that overlap it, weighted by score (Gidaris & Komodakis 2015, section 4.3).

    Args:
        boxes: ``[B, P, 4]`` xyxy.
        scores: ``[B, P]``, not negative.
        iou: boxes count from this IoU on.

    Returns:
        ``[B, P, 4]``.
    """
    low, high = boxes[..., :2], boxes[..., 2:]
    common = torch.minimum(high.unsqueeze(2), high.unsqueeze(1)) - torch.maximum(low.unsqueeze(2), low.unsqueeze(1))
    intersection = common.relu().prod(dim=3)  # [B, P, P]
    area = sides_of(boxes).prod(dim=2)
    overlap = intersection / (area.unsqueeze(2) + area.unsqueeze(1) - intersection)
    weights = torch.where(overlap >= iou, scores.unsqueeze(1), 0.0)
    return weights @ boxes / weights.sum(dim=2, keepdim=True).clamp(min=1e-9)
