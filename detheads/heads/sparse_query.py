"""Sparse queries: only the places that look like an object are ever asked what they are.

Hypothesis: most of a dense head's work goes into background, and most of its false detections come from there. Here a
cheap objectness map ranks all places of three levels, and only the best of them, with the features found there, go on:
they attend to each other, which settles who speaks for an object, and give one class and box each, without suppression.

Sources: Sun et al. 2021, "Sparse R-CNN"; Zhu et al. 2021, "Deformable DETR", section 4 (queries picked from the map by
a first stage); Roh et al. 2022, "Sparse DETR"; phanerozoic/detection-heads, ``sparse_query``. Refuted if the same stem
and layers, asked everywhere, with the labels of ATSS and suppression (``asked=all``), make no more false detections at
equal recall, and in its other half if places that do not hear each other (``layers=0``) do as well, in ``detheads arena
run --heads sparse_query --with-controls``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.attention import ENCODED, FeedForward, SelfAttention, sine_encoding
from detheads.headkit.blocks import (
    ChannelDropout,
    DepthwiseResidual,
    FinerLevel,
    conv_norm,
    join_main,
    joined_channels,
)
from detheads.headkit.contract import HeadOutput, Matcher
from detheads.headkit.controls import Control
from detheads.headkit.dense import (
    MAX_LOG_DISTANCE,
    TowerConfig,
    init_prediction,
    tower,
)
from detheads.headkit.grids import OnGrids
from detheads.headkit.matching import Geometry
from detheads.headkit.octaves import octave_levels, octave_strides
from detheads.headkit.prior import PRIOR_BIAS
from detheads.headkit.queries import Prediction, QueryHead, box_layers, class_layer
from detheads.headkit.registry import register
from detheads.ops.across import mean_across_processes
from detheads.ops.losses import sigmoid_focal_loss
from detheads.ops.points import flatten_levels, ltrb_to_boxes
from detheads.ops.ranking import highest
from detheads.targets.atss import assign_atss_batch
from detheads.targets.objects import TargetBatch, Targets

LEVELS = 3


@dataclass(frozen=True)
class Config(TowerConfig):
    """Options of ``sparse_query``.

    Attributes:
        queries: places asked in an image, all of them where there are fewer.
        layers: rounds of attention among them.
        asked: the ``best`` places, or ``all``, which then do not hear each other and need suppression.
    """

    queries: PositiveInt = 100
    layers: NonNegativeInt = 2
    asked: Literal["best", "all"] = "best"


@register(Config)
class SparseQuery(OnGrids, QueryHead):
    """An objectness map picks the few places that are classified and boxed."""

    controls = MappingProxyType(
        {
            "sparse": Control("What is never asked is never a false detection.", {"asked": "all"}, "false_detections"),
            "relations": Control("Places that hear each other settle who speaks for an object.", {"layers": 0}),
        }
    )
    places: Tensor

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        super().__init__(spec)
        width, self.queries = config.width, config.queries
        self.lay_grids(spec.height, spec.width, octave_strides(spec, LEVELS))
        places = torch.cat((self.points / self.size[:2], self.strides[:, None] / self.level_strides[-1]), dim=1)
        self.register_buffer("places", places, persistent=False)  # [N, 3], in (0, 1]
        self.dropout = ChannelDropout(config.dropout)
        self.stem = nn.Sequential(conv_norm(joined_channels(spec), width, 1), *tower(width, config.tower_blocks))
        self.finer = FinerLevel(spec, width)
        self.local = DepthwiseResidual(width)
        self.nms_free = config.asked == "best"
        if self.nms_free:
            self.objectness = init_prediction(nn.Conv2d(width, 1, 3, padding=1, bias=False))
            # The levels have about as many object points each, so a place of a coarse level is an object more often.
            self.level_bias = nn.Parameter(PRIOR_BIAS + math.log(4.0) * torch.tensor([-1.0, 0.0, 1.0]))
        self.enter = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))
        self.place = nn.Linear(3 * ENCODED, width)
        self.layers = nn.Sequential(
            *(nn.Sequential(SelfAttention(width), FeedForward(width)) for _ in range(config.layers * self.nms_free))
        )
        self.norm = nn.LayerNorm(width)
        self.classes = class_layer(width, num_classes)
        self.distances = box_layers(width, bias=1.0)

    def forward(self, features: Mapping[str, Tensor]) -> HeadOutput:
        levels = self.levels(self.dropout(features))
        if not self.nms_free:
            boxes, logits = self.answers(flatten_levels(levels), self.points, self.strides, self.places)
            return HeadOutput(boxes, logits, None, {})
        maps = [self.objectness(level) + bias for level, bias in zip(levels, self.level_bias, strict=True)]
        return self.ask(levels, flatten_levels(maps).squeeze(2))

    def levels(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Three maps ``[B, width, H, W]``, strides s/2, s and 2s."""
        x = self.stem(join_main(features, self.spec))
        return [self.local(level) for level in octave_levels(x, self.finer, features, LEVELS)]

    def ask(self, levels: Sequence[Tensor], objectness: Tensor) -> HeadOutput:
        """Class and box of the places of highest ``objectness`` ``[B, N]``, a logit each."""
        _, chosen = highest(objectness.detach(), min(self.queries, objectness.shape[1]))  # [B, Q]
        found = flatten_levels(levels)  # [B, N, C]
        contents = found.gather(1, chosen.unsqueeze(2).expand(-1, -1, found.shape[2]))  # [B, Q, C]
        boxes, logits = self.answers(contents, self.points[chosen], self.strides[chosen], self.places[chosen])
        return HeadOutput(boxes, logits, None, {"objectness": objectness, "chosen": chosen})

    def answers(self, contents: Tensor, points: Tensor, strides: Tensor, places: Tensor) -> Prediction:
        """Box and class of what was found, ``[B, Q, C]``, at these points ``[.., Q, 2]`` of strides ``[.., Q]``, of
        which ``places`` ``[.., Q, 3]`` tell the layers."""
        placed = self.enter(contents) + self.place(sine_encoding(places))
        contents = self.norm(self.layers(placed))  # [B, Q, C]
        ltrb = self.distances(contents).float().clamp(max=MAX_LOG_DISTANCE).exp() * strides.unsqueeze(-1)  # [B, Q, 4]
        return ltrb_to_boxes(points, ltrb), self.classes(contents).float()

    def loss(self, output: HeadOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The set loss of the queries, and the focal loss of the objectness map, an object point each.

        Without queries the same losses of all places, with the labels of geometry instead of one place an object.
        """
        batch = TargetBatch.of(targets)
        if not self.nms_free:
            matches = self.geometry().matches(batch)
            chosen = torch.zeros_like(matches.images)[None], matches.images[None], matches.points[None]
            wanted, labels = matches.boxes[None] / self.size, matches.labels[None]
            every = self.losses_of(output.boxes[None] / self.size, output.logits[None], chosen, wanted, labels)
            return {name: values[0] for name, values in every.items()}
        found = batch.prepared["object_points"] if batch.prepared else self.geometry()(batch) >= 0  # [B, N]
        objectness = sigmoid_focal_loss(output.extras["objectness"], found.to(output.logits.dtype))
        points = mean_across_processes(found.sum(), least=1.0)
        return super().loss(output, batch) | {"objectness": objectness / points}

    def geometry(self) -> Geometry:
        """Which places are on objects: the positive points of ATSS."""
        return Geometry(assign_atss_batch, self.points, self.points_per_level, self.strides)

    def matcher(self) -> Matcher:
        """The places on objects, by geometry; which query finds which object is the loss's to say."""
        assign = self.geometry().cpu()
        if not self.nms_free:
            return assign.prepare
        return lambda targets: {"object_points": assign(targets) >= 0}
