"""Scale as a class: how large an object is gets classified, what shape it has gets regressed.

Hypothesis: four regressed distances each guess the size of the object anew, and the points that see one object come
to sizes that differ. A distribution over explicit scales is supervised directly, can say that it is undecided between
two sizes, and is the same target for every point of the object whatever its place and level. Here the size of a box,
the root of its area, is the expected log scale of that distribution and nothing else; the distances are normalised to
a box of area 1.

Sources: Li et al. 2020, "Generalized Focal Loss" (a distance as the expectation of a learned distribution); Fu et al.
2018, "Deep Ordinal Regression Network" (log-spaced bins); the row ``scale_classify`` of phanerozoic/detection-heads.
Refuted if plain distances on the same levels (``distances=plain``) give as high an AP75 in
``detheads arena run --heads scale_classify --with-controls``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.contract import HeadOutput
from detheads.headkit.controls import Control
from detheads.headkit.dense import PyramidConfig, init_prediction
from detheads.headkit.matching import Matches
from detheads.headkit.octaves import OctaveHead
from detheads.headkit.registry import register
from detheads.ops.across import mean_number
from detheads.ops.points import flatten_levels, ltrb_to_boxes

LEVELS = 4
MAX_LOG_SHAPE = 8.0
"""Of the four distances, before they are normalised: no side is more than e^8 times another."""


@dataclass(frozen=True)
class Config(PyramidConfig):
    """Options of ``scale_classify``.

    Attributes:
        scales: classes of scale, evenly spaced in the logarithm.
        distances: ``sized`` by the classified scale, or ``plain``, which leave a plain dense head.
    """

    scales: Annotated[int, Field(ge=2)] = 12
    distances: Literal["sized", "plain"] = "sized"


@register(Config)
class ScaleClassify(OctaveHead):
    """Boxes whose size is classified and whose shape is regressed."""

    controls = MappingProxyType(
        {
            "scale": Control(
                "A classified scale places boxes better than four distances.", {"distances": "plain"}, "AP75"
            )
        }
    )
    log_scales: Tensor

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        super().__init__(spec, num_classes, LEVELS, config, config.assigner)
        self.sized = config.distances == "sized"
        if not self.sized:
            return
        self.scales = init_prediction(nn.Conv2d(config.width, config.scales, 3, padding=1))
        smallest, largest = self.level_strides[0] / 2, math.hypot(spec.height, spec.width)
        log_scales = torch.linspace(math.log(smallest), math.log(largest), config.scales)  # [S]
        self.register_buffer("log_scales", log_scales, persistent=False)

    def predict(self, levels: Sequence[Tensor]) -> HeadOutput:
        """Dense predictions; the scale logits ``[B, N, S]`` are in the extras."""
        if not self.sized:
            return super().predict(levels)
        for_boxes = [self.box_tower(level) for level in levels]
        distances = [self.distances(level) for level in for_boxes]
        shapes = flatten_levels([x * scale for x, scale in zip(distances, self.level_scales, strict=True)])
        scale_logits = flatten_levels([self.scales(level) for level in for_boxes])  # [B, N, S]
        ltrb = sized_distances(shapes, expected_log_scale(scale_logits, self.log_scales))  # [B, N, 4]
        return HeadOutput(
            ltrb_to_boxes(self.points, ltrb),
            flatten_levels([self.classes(self.class_tower(level)) for level in levels]),
            flatten_levels([self.centerness(level) for level in for_boxes]).squeeze(2),
            {"scale_logits": scale_logits},
        )

    def losses(self, output: HeadOutput, matches: Matches) -> dict[str, Tensor]:
        """The usual terms and the cross-entropy of the scales, a positive point each."""
        usual = super().losses(output, matches)
        if not self.sized:
            return usual
        sides = matches.boxes[:, 2:] - matches.boxes[:, :2]  # [P, 2]
        wanted = soft_scale_labels(sides.prod(dim=1).sqrt(), self.log_scales)  # [P, S]
        scores = output.extras["scale_logits"][matches.images, matches.points]  # [P, S]
        scale = F.cross_entropy(scores, wanted, reduction="sum") / mean_number(len(wanted), like=scores)
        return {**usual, "scale": scale}


def expected_log_scale(logits: Tensor, log_scales: Tensor) -> Tensor:
    """The mean ``[B, N]`` of the distribution that logits ``[B, N, S]`` give over ``log_scales`` ``[S]``."""
    return (logits.softmax(dim=2) * log_scales).sum(dim=2)


def sized_distances(shapes: Tensor, log_scale: Tensor) -> Tensor:
    """LTRB distances ``[B, N, 4]`` of a box with area ``exp(log_scale)`` squared, whatever its shape.

    Args:
        shapes: ``[B, N, 4]``, logarithms of LTRB distances up to a common factor.
        log_scale: ``[B, N]``.
    """
    left, top, right, bottom = ltrb = shapes.clamp(-MAX_LOG_SHAPE, MAX_LOG_SHAPE).exp().unbind(dim=2)  # [B, N] each
    factor = log_scale.exp() / ((left + right) * (top + bottom)).sqrt()
    return torch.stack(ltrb, dim=2) * factor.unsqueeze(2)


def soft_scale_labels(sizes: Tensor, log_scales: Tensor) -> Tensor:
    """Distributions over the scales whose mean is the log size: all on its bin, or shared by the two around it.

    Args:
        sizes: ``[P]``, roots of the objects' areas; those beyond the scales belong to the first or last.
        log_scales: ``[S]``, evenly spaced.

    Returns:
        ``[P, S]``.
    """
    step = log_scales[1] - log_scales[0]
    position = (sizes.log() - log_scales[0]) / step  # [P] in bins
    bins = torch.arange(len(log_scales), device=sizes.device)
    return (1 - (position.clamp(0, len(log_scales) - 1)[:, None] - bins).abs()).clamp(min=0)  # [P, S]
