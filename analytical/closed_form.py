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

from torch import Tensor

from detheads.analytical.config import Config
from detheads.analytical.first_stage import FirstStage
from detheads.analytical.refinement import Refinement, vote
from detheads.backbones.features import FeatureSpec
from detheads.foundation.errors import UserError
from detheads.headkit.blocks import join_main
from detheads.headkit.contract import HeadOutput
from detheads.headkit.registry import register
from detheads.targets.objects import Targets

LEAST_SCORE = 1e-4
"""Predicted IoUs are kept this far from 0 and 1, where a logit has no value."""


@register(Config)
class ClosedForm(FirstStage):
    """Discriminant analysis, anchors and ridge regression on cofiber bands, without gradient descent."""

    trainable = False

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        if config.compressed != (config.components > 0):
            raise ValueError("components belong to view=context or rounds, which need some")
        super().__init__(spec, num_classes, config)
        self.rounds = Refinement(config, num_classes, spec.height, spec.width)

    def forward(self, features: Mapping[str, Tensor]) -> HeadOutput:
        boxes, logits = self.proposals(features)
        if self.config.rounds:
            boxes, scores = self.refined(features, boxes, logits)
            logits = scores.clamp(LEAST_SCORE, 1 - LEAST_SCORE).logit()
        if self.config.voting:
            boxes = vote(boxes, logits.sigmoid().amax(dim=2), self.config.voting)
        return HeadOutput(boxes, logits, None, {})

    def refined(self, features: Mapping[str, Tensor], boxes: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The best proposals after all rounds: boxes ``[B, P, 4]`` and predicted IoUs ``[B, P, K]``."""
        return self.rounds(self.compress(join_main(features, self.spec)), boxes, logits, self.config.rounds)

    def loss(self, output: HeadOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Refused: there is nothing to descend."""
        raise UserError("closed_form is not trained; fit it with 'detheads analytical fit'.")
