"""Labels by optimal transport: which point learns which object is one global, cheapest plan.

Hypothesis: an assignment by geometry alone (ATSS, FCOS) wastes positives on points that predict an object badly and
decides each conflict between overlapping objects by itself. Here each object offers as many positives as its current
predictions deserve, each point takes one object or the background, and an entropic optimal transport finds the
cheapest plan for the whole image; the cost is what the point would lose by learning the object. Everything else is a
plain dense head, so that a difference is the assignment's.

Sources: Ge et al. 2021, "OTA: Optimal Transport Assignment for Object Detection" (costs, dynamic k, Sinkhorn);
Cuturi 2013, "Sinkhorn Distances"; Lyu et al. 2022, "RTMDet" (the soft centre prior); the row ``optimal_transport`` of
phanerozoic/detection-heads. Refuted if ATSS with the same levels and towers (``labels=atss``) does as well in
``detheads arena run --heads optimal_transport --with-controls``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from detheads.backbones.features import FeatureSpec
from detheads.headkit.contract import HeadOutput, Matcher
from detheads.headkit.controls import Control
from detheads.headkit.dense import TowerConfig
from detheads.headkit.matching import Matches
from detheads.headkit.octaves import OctaveHead
from detheads.headkit.registry import register
from detheads.ops.losses import focal_cost
from detheads.ops.overlaps import overlaps
from detheads.targets.objects import TargetBatch, Targets
from detheads.targets.optimal_transport import assign_optimal_transport

LEVELS = 4
BOX_COST = 2.0
"""Weight of ``1 - GIoU`` against the classification's cost."""
PRIOR_RADIUS = 3.0
"""Strides from the centre of the object at which the prior costs 1; each further stride costs ten times more."""
MAX_PRIOR_DECADES = 2.0


@dataclass(frozen=True)
class Config(TowerConfig):
    """Options of ``optimal_transport``.

    Attributes:
        labels: ``transport``, or those of ``atss``, which leave a plain dense head.
        top_q: predictions whose IoUs decide how many positives an object offers.
        regularisation: of the transport, in units of the cost; small is near the exact plan.
        iterations: of Sinkhorn's algorithm.
    """

    labels: Literal["transport", "atss"] = "transport"
    top_q: PositiveInt = 10
    regularisation: PositiveFloat = 0.1
    iterations: PositiveInt = 100


@register(Config)
class OptimalTransport(OctaveHead):
    """Dense head whose labels are the plan of an entropic optimal transport."""

    controls = MappingProxyType(
        {
            "transport": Control(
                "The cheapest plan for a whole image labels points better than ATSS.", {"labels": "atss"}
            )
        }
    )

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        # The assigner is asked without the transport alone: match() below takes its place.
        super().__init__(spec, num_classes, LEVELS, config, assigner="atss")
        self.config = config

    def match(self, output: HeadOutput, targets: Sequence[Targets]) -> Matches:
        """The plan's positives, from the predictions as they are now."""
        if self.config.labels == "atss":
            return super().match(output, targets)
        return self.transported(output, TargetBatch.of(targets))

    @torch.no_grad()
    def transported(self, output: HeadOutput, batch: TargetBatch) -> Matches:
        """The positives of the cheapest plan."""
        pairs = batch.prepared or pairs_within(self.points, self.strides, batch)
        objects, points = pairs["objects"], pairs["points"]  # [R] each
        images, labels = batch.images[objects], batch.labels[objects]
        iou, generalised = overlaps(batch.boxes[objects], output.boxes[images, points])
        # The other classes' losses are the same for an object and the background, and do not move a plan.
        classes = focal_cost(output.logits[images, points, labels])
        cost = classes + BOX_COST * (1 - generalised) + pairs["prior"]
        nothing = cost.new_zeros(len(batch.boxes), len(self.points))  # [T, N]
        matched = assign_optimal_transport(
            nothing.index_put((objects, points), cost),
            nothing.index_put((objects, points), iou),
            nothing.index_put((objects, points), torch.ones_like(cost)) > 0,
            batch,
            top_q=self.config.top_q,
            regularisation=self.config.regularisation,
            iterations=self.config.iterations,
        )
        return Matches.of(matched, batch)

    def matcher(self) -> Matcher:
        """The points within each object, which are all that can learn it."""
        if self.config.labels == "atss":
            return self.geometry().cpu().prepare
        return partial(pairs_within, self.points.cpu(), self.strides.cpu())


def pairs_within(points: Tensor, strides: Tensor, targets: TargetBatch) -> dict[str, Tensor]:
    """The ``R`` pairs of an object and a point strictly within it.

    Args:
        points, strides: ``[N, 2]`` and ``[N]``, input pixels.

    Returns:
        ``objects`` and ``points``, ``[R]`` int64, indices among those of the batch and the ``N``, and ``prior``,
        ``[R]``, what learning the object costs so far from its centre.
    """
    x, y = points.unbind(dim=1)  # [N]
    x1, y1, x2, y2 = targets.boxes[:, :, None].unbind(dim=1)  # [T, 1]
    within = (x > x1) & (x < x2) & (y > y1) & (y < y2)  # [T, N]
    objects, chosen = torch.nonzero(within).unbind(dim=1)
    center = (targets.boxes[:, :2] + targets.boxes[:, 2:]) / 2  # [T, 2]
    offset = torch.hypot(*(points[chosen] - center[objects]).unbind(dim=1)) / strides[chosen]
    prior = 10.0 ** (offset - PRIOR_RADIUS).clamp(max=MAX_PRIOR_DECADES)
    return {"objects": objects, "points": chosen, "prior": prior}
