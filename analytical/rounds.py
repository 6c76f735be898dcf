"""A refinement round: from the boxes that the solved detector leaves, how good each is and where it should move.

Each round is one more pass over the cache and two ridge problems: the IoU with an object of each class, over all
boxes; and the offsets to the matched object, over the boxes that have one, weighted by IoU.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.ops import box_iou

from detheads.analytical.anchors import encode, sides_of
from detheads.analytical.closed_form import ClosedForm
from detheads.analytical.estimators import ridge_from_moments
from detheads.analytical.moments import Moments, pack, unpack
from detheads.analytical.passes import BATCH, pass_over
from detheads.analytical.solve import Solution, put_ridge
from detheads.cache.reader import FeatureCache
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress
from detheads.headkit.blocks import join_main
from detheads.targets.objects import Targets
from detheads.training.sealed import read_sealed, write_sealed

MATCHED = 0.4
"""From this IoU on a box is taken for an object's, and tells how boxes should move towards it."""

_KIND = "detheads.round"

RANDOM_SEED = 0
RANDOM_SPREAD = 1.5
"""Of the random features: their argument has about this standard deviation."""


@dataclass
class RoundMoments:
    """The two ridge problems of a round, the random features drawn for it, and how many images they hold."""

    scores: Moments
    offsets: Moments
    random_weight: Tensor
    random_bias: Tensor
    images: int = 0

    def save(self, path: Path, token: str) -> None:
        """Write the state atomically; ``token`` says what it belongs to."""
        tensors = {"random_weight": self.random_weight, "random_bias": self.random_bias}
        tensors |= pack({"scores": self.scores, "offsets": self.offsets})
        write_sealed(path, _KIND, {"token": token, "images": self.images}, tensors)


@torch.inference_mode()
def solve_round(
    cache: FeatureCache,
    head: ClosedForm,
    index: int,
    alpha: float,
    path: Path,
    token: str,
    solution: Solution,
    on_progress: Progress,
) -> None:
    """Solve round ``index`` of a head whose earlier stages are solved, and put it into the head.

    Args:
        alpha: penalty of both ridge regressions.
        path: where the state is kept; a killed pass goes on from there when ``token`` is the same.
        token: digest of everything that the pass depends on.

    Raises:
        UserError: when no box overlaps an object well enough to learn from.
    """
    stage = head.rounds.round(index)

    def see(images: range) -> tuple[Tensor, Tensor]:
        """Boxes ``[B, P, 4]`` that enter the round, and what it sees of them ``[B, P, inputs]``."""
        features = cache.features(images)
        base = head.compress(join_main(features, head.spec))
        boxes, scores = head.rounds(base, *head.proposals(features), index)
        return boxes, head.rounds.inputs(base, boxes, scores)

    def take(images: range, seen: tuple[Tensor, Tensor]) -> None:
        boxes, inputs = seen
        _add(moments, stage.expand(inputs), boxes, [cache.targets(image) for image in images])
        moments.images = images.stop
        on_progress(f"round {index + 1}", moments.images, len(cache))

    moments = _resumed(path, token) or _fresh(head, see(range(min(BATCH, len(cache))))[1])
    stage.random_weight.copy_(moments.random_weight)
    stage.random_bias.copy_(moments.random_bias)
    pass_over(range(moments.images, len(cache)), see, take, lambda: moments.save(path, token))
    if not moments.offsets.total:
        raise UserError(
            f"no box overlaps an object with an IoU of {MATCHED} or more, so round {index + 1} has nothing to learn "
            "from; fit with -O rounds=0, or give more images."
        )
    for name, problem in (("score", moments.scores), ("offset", moments.offsets)):
        title = f"round{index}_{name}"
        ridge = solution.noting(title, ridge_from_moments, problem, alpha)
        solution.estimators[title] = ridge
        put_ridge(ridge, getattr(stage, f"{name}_weight"), getattr(stage, f"{name}_bias"))


def _fresh(head: ClosedForm, inputs: Tensor) -> RoundMoments:
    """No image yet; random features that suit the spread of the first inputs."""
    rows = inputs.flatten(0, 1)
    hidden, size = head.config.hidden, rows.shape[1]
    generator = torch.Generator().manual_seed(RANDOM_SEED)
    mean, deviation = rows.mean(dim=0), rows.std(dim=0, correction=0).clamp(min=1e-6)
    weight = torch.randn(size, hidden, generator=generator) * RANDOM_SPREAD / (deviation[:, None] * math.sqrt(size))
    bias = 0.5 * torch.randn(hidden, generator=generator) - mean @ weight
    pilot = torch.cat((mean, (rows @ weight + bias).relu().mean(dim=0)))
    return RoundMoments(Moments(pilot, targets=head.num_classes), Moments(pilot, targets=4), weight, bias)


def _add(moments: RoundMoments, rows: Tensor, boxes: Tensor, targets: list[Targets]) -> None:
    """Take the boxes of some images in: ``rows [B, P, inputs]``, ``boxes [B, P, 4]``."""
    goals = torch.zeros(*boxes.shape[:2], moments.scores.targets)
    for image, target in enumerate(targets):
        if not len(target.boxes):
            continue
        overlap = box_iou(boxes[image], target.boxes)  # [P, M]
        for label in target.labels.unique().tolist():
            goals[image, :, label] = overlap[:, target.labels == label].amax(dim=1)
        best, match = overlap.max(dim=1)
        matched = best >= MATCHED
        own = boxes[image, matched]
        offsets = encode(target.boxes[match[matched]], (own[:, :2] + own[:, 2:]) / 2, sides_of(own))
        moments.offsets.add(rows[image, matched], targets=offsets, weights=best[matched])
    moments.scores.add(rows.flatten(0, 1), targets=goals.flatten(0, 1))


def _resumed(path: Path, token: str) -> RoundMoments | None:
    """The state of an earlier pass of the same token; None where there is none, or a damaged one."""
    if not path.is_file():
        return None
    try:
        description, tensors = read_sealed(path, _KIND, "it is made again")
    except UserError:
        return None
    if description["token"] != token:
        return None
    problems = unpack(tensors)
    random = tensors["random_weight"], tensors["random_bias"]
    return RoundMoments(problems["scores"], problems["offsets"], *random, description["images"])
