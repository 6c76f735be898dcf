"""Prototypes with a threshold: what is not like a class enough is not that class, however the others compare.

Hypothesis: a detector's many weak false detections are points that resemble a class a little. A classifier that may
say "none of these" at each point, by a similarity each class requires and learns itself, drops them for good, where a
logit only ranks them low. A class has several prototypes, as it has several looks; the best of them counts, and below
the threshold nothing does. The gate is a step in training and in use, so that both see one function; the gradient takes
it for a sigmoid.

Sources: Bengio, Léonard, Courville. Estimating or Propagating Gradients Through Stochastic Neurons. 2013 (the
straight-through gradient). Allen et al. Infinite Mixture Prototypes for Few-Shot Learning. ICML 2019 (several
prototypes a class). phanerozoic/detection-heads, row ``threshold_prototype``. Refuted if the same head that is open
everywhere (``thresholds=false``) makes no more false detections at equal recall, and its other half if one prototype a
class (``per_class=1``) does as well, in ``detheads arena run --heads threshold_prototype --with-controls``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.controls import Control
from detheads.headkit.cosine import INITIAL_LOG_SCALE, scale_of
from detheads.headkit.dense import PyramidConfig
from detheads.headkit.octaves import OctaveHead
from detheads.headkit.prior import PRIOR_BIAS, start_from
from detheads.headkit.registry import register
from detheads.ops.decisions import decide
from detheads.ops.points import flatten_levels

LEVELS = 4

CLOSED = -10.0
"""Logit below the threshold: a score of 0.007 at the very best centerness, under any score threshold in use."""

SOFTNESS = 0.1
"""Width of the sigmoid, in cosine, that stands in for the step when gradients are computed."""


@dataclass(frozen=True)
class Config(PyramidConfig):
    """Options of ``threshold_prototype``.

    Attributes:
        width: channels of levels and towers, and dimension of the prototypes.
        per_class: prototypes of each class.
        thresholds: of each class, learned; else every point is open to every class.
    """

    per_class: PositiveInt = 4
    thresholds: bool = True


@register(Config)
class ThresholdPrototype(OctaveHead):
    """Several learned prototypes a class, and a learned similarity below which there is no detection."""

    controls = MappingProxyType(
        {
            "thresholds": Control(
                "A classifier that may say none of these makes fewer false detections.",
                {"thresholds": False},
                "false_detections",
            ),
            "several": Control("A class has several looks, and needs a prototype for each.", {"per_class": 1}),
        }
    )

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        super().__init__(spec, num_classes, LEVELS, config, config.assigner)
        self.classes: GatedPrototypes = GatedPrototypes(
            config.width, num_classes, config.per_class, gated=config.thresholds
        )

    def start_from(self, features: Mapping[str, Tensor]) -> None:
        """Start the logits above the thresholds from the prior on these features."""
        with torch.no_grad():
            levels = [self.classes.similarity(self.class_tower(level)) for level in self.levels(features)]
            self.classes.start_from(flatten_levels(levels))


class GatedPrototypes(nn.Module):
    """``scale * similarity_k + bias_k`` where the similarity of class ``k`` exceeds its threshold, else :data:`CLOSED`.

    The threshold decides and does not rank: raising it takes candidates away and leaves the others as they are. (Not
    so after suppression: a candidate that is gone suppresses none.)

    Args:
        gated: else there is no threshold.
    """

    def __init__(self, width: int, num_classes: int, per_class: int, *, gated: bool = True) -> None:
        super().__init__()
        self.embed = nn.Conv2d(width, width, 1, bias=False)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(num_classes, per_class, width), dim=2))
        self.thresholds = nn.Parameter(torch.zeros(num_classes)) if gated else None
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOG_SCALE))
        self.bias = nn.Parameter(torch.full((num_classes,), PRIOR_BIAS))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, width, H, W]`` -> logits ``[B, K, H, W]``."""
        similarity = self.similarity(x)
        opened = scale_of(self.logit_scale) * similarity + self.bias[:, None, None]
        if self.thresholds is None:
            return opened
        return CLOSED + step(similarity - self.thresholds[:, None, None]) * (opened - CLOSED)

    def start_from(self, similarity: Tensor) -> None:
        """Set scale and biases so that the loss of these first similarities ``[B, N, K]`` is about the prior's."""
        start_from(similarity * scale_of(self.logit_scale), self.logit_scale, self.bias)

    def similarity(self, x: Tensor) -> Tensor:
        """Cosine of ``[B, width, H, W]`` with the closest prototype of each class, ``[B, K, H, W]`` float32."""
        points = F.normalize(self.embed(x).float(), dim=1)  # [B, width, H, W]
        prototypes = F.normalize(self.prototypes, dim=2).flatten(0, 1)  # [K * per_class, width]
        cosines = F.conv2d(points, prototypes[:, :, None, None]).float()  # [B, K * per_class, H, W]
        return cosines.unflatten(1, self.prototypes.shape[:2]).amax(dim=2)


def step(margin: Tensor) -> Tensor:
    """1 where ``margin`` is above 0, else 0, with the gradient of ``sigmoid(margin / SOFTNESS)``."""
    soft = (margin / SOFTNESS).sigmoid()
    return decide(margin.detach(), lambda margin: margin > 0).to(margin.dtype) + (soft - soft.detach())
