"""Labels by optimal transport: which point learns which object is one global, cheapest plan.

Hypothesis: an assignment by geometry alone (ATSS, FCOS) wastes positives on points that predict an object badly and
decides each conflict between overlapping objects by itself. Here each object offers as many positives as its current
predictions deserve, each point takes one object or the background, and an entropic optimal transport finds the
cheapest plan for the whole image; the cost is what the point would lose by learning the object. Everything else is a
plain dense head, so that a difference is the assignment's.

Sources: Ge et al. 2021, "OTA: Optimal Transport Assignment for Object Detection" (costs, dynamic k, Sinkhorn);
Cuturi 2013, "Sinkhorn Distances"; Lyu et al. 2022, "RTMDet" (the soft centre prior); the row ``optimal_transport`` of
phanerozoic/detection-heads. Refuted if ATSS with the same levels and towers does as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou

from detheads.backbones.features import FeatureSpec
from detheads.headkit.contract import HeadOutput
from detheads.headkit.dense import Matches, TowerConfig, gather_matches
from detheads.headkit.octaves import OctaveHead
from detheads.headkit.registry import register
from detheads.ops.losses import focal_cost
from detheads.targets.assignment import Assignment
from detheads.targets.objects import Targets
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
        top_q: predictions whose IoUs decide how many positives an object offers.
        regularisation: of the transport, in units of the cost; small is near the exact plan.
        iterations: of Sinkhorn's algorithm.
    """

    top_q: PositiveInt = 10
    regularisation: PositiveFloat = 0.1
    iterations: PositiveInt = 100


@register(Config)
class OptimalTransport(OctaveHead):
    """Dense head whose labels are the plan of an entropic optimal transport."""

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        # The assigner is never asked: match() below takes its place.
        super().__init__(spec, num_classes, LEVELS, config, assigner="atss")
        self.config = config

    @torch.no_grad()
    def match(self, output: HeadOutput, targets: Sequence[Targets]) -> Matches:
        """The plan's positives, from the predictions as they are now."""
        assignments = [
            Assignment(self._transport(boxes, logits, target))
            for boxes, logits, target in zip(output.boxes, output.logits, targets, strict=True)
        ]
        return gather_matches(assignments, targets)

    def _transport(self, boxes: Tensor, logits: Tensor, target: Targets) -> Tensor:
        """Index of the object of each point, -1 for background: ``[N]`` from predictions ``[N, 4]``, ``[N, K]``."""
        x, y = self.points.unbind(dim=1)  # [N]
        x1, y1, x2, y2 = target.boxes[:, :, None].unbind(dim=1)  # [M, 1]
        inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)  # [M, N]
        near = torch.nonzero(inside.any(dim=0)).squeeze(1)  # [R], the only points that can learn an object
        matched = torch.full_like(self.points[:, 0], -1, dtype=torch.int64)
        if len(near) == 0:
            return matched
        offset = torch.hypot(x[near] - (x1 + x2) / 2, y[near] - (y1 + y2) / 2) / self.strides[near]  # [M, R]
        prior = 10.0 ** (offset - PRIOR_RADIUS).clamp(max=MAX_PRIOR_DECADES)
        overlap = 1 - generalized_box_iou(target.boxes, boxes[near])  # [M, R]
        # The other classes' losses are the same for an object and the background, and do not move a plan.
        cost = focal_cost(logits[near][:, target.labels].T) + BOX_COST * overlap + prior
        matched[near] = assign_optimal_transport(
            cost,
            box_iou(target.boxes, boxes[near]),
            inside[:, near],
            top_q=self.config.top_q,
            regularisation=self.config.regularisation,
            iterations=self.config.iterations,
        )
        return matched
