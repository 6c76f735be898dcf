"""The options of the closed-form detector, and named configurations."""

from dataclasses import dataclass
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from detheads.foundation.errors import UserError
from detheads.headkit.options import Share


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

    levels: PositiveInt = 5
    view: Literal["bands", "context"] = "bands"
    directions: Literal["shared", "per_level"] = "shared"
    classifier: Literal["lda", "gmm"] = "lda"
    covariance: Literal["shares", "equal"] = "shares"
    anchor: Literal["hard", "soft"] = "hard"
    components: NonNegativeInt = 0
    rounds: NonNegativeInt = 0
    grid: PositiveInt = 5
    proposals: PositiveInt = 200
    hidden: NonNegativeInt = 0
    voting: Share = 0.0

    @property
    def compressed(self) -> bool:
        """Whether anything looks at principal components."""
        return self.view == "context" or self.rounds > 0


PRESETS = {
    "reference": Config(),
    "refined": Config(view="context", components=64, rounds=2, voting=0.7),
}
"""``reference`` is the source's detector (v3j); ``refined`` adds what was measured to help."""


def preset(name: str) -> Config:
    """The configuration of that name.

    Raises:
        UserError: when there is none.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}.")
    return PRESETS[name]
