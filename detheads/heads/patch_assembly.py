"""Objects assembled from patches: cells vote for a box, bond with their neighbours, and agree.

Hypothesis: each patch of an object sees some of its edges well and guesses the others, so a box put together from the
votes of all patches is better than the vote of any. As in self-assembling tiles, what belongs together is decided
locally: each cell has a glue on each of its four sides, and the bond of two cells comes from the two glues that meet.
Over a few rounds the votes (absolute edges and class evidence) spread along the bonds, weighted by the confidence of
their patches; bonds are taught to be 1 within an object and 0 across its border.

A round is a step of diffusion with conserved mass: the patches of a block, fully bonded in itself and to nothing
else, converge to exactly the confidence-weighted mean of their votes.

Sources: Winfree 1998, "Algorithmic Self-Assembly of DNA" (tiles and glues); Leibe, Leonardis, Schiele 2004, "Combined
Object Categorization and Segmentation with an Implicit Shape Model" (patches that vote); Perona, Malik 1990,
"Scale-Space and Edge Detection Using Anisotropic Diffusion"; the row ``patch_assembly`` of phanerozoic/detection-heads.
Refuted if the same head with ``rounds=0`` does as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.contract import HeadOutput
from detheads.headkit.dense import TowerConfig, init_prediction
from detheads.headkit.matching import Geometry, Matches
from detheads.headkit.octaves import OctaveHead
from detheads.headkit.registry import register
from detheads.ops.across import mean_across_processes
from detheads.targets.fcos import assign_fcos_batch

CORE_RADIUS = 2.5
"""Strides around the centre of an object within which its cells are its patches: a large one has no more than 25."""
SHARE = 0.2
"""Of a cell's mass, what each full bond exchanges in a round; with four bonds and itself, a plain average of five."""
MIN_CONFIDENCE = 0.01


@dataclass(frozen=True)
class Config(TowerConfig):
    """Options of ``patch_assembly``.

    Attributes:
        rounds: of assembly; 0 leaves the votes as they are.
    """

    rounds: NonNegativeInt = 4


@register(Config)
class PatchAssembly(OctaveHead):
    """Patches vote for boxes and bond with their neighbours until they agree."""

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        super().__init__(spec, num_classes, 1, config, assigner="fcos")
        self.rounds = config.rounds
        self.glues = init_prediction(nn.Conv2d(config.width, 4, 3, padding=1))
        self.confidence = init_prediction(nn.Conv2d(config.width, 1, 3, padding=1)) if config.rounds else None

    def predict(self, levels: Sequence[Tensor]) -> HeadOutput:
        """Votes, then the boxes and logits they assemble to; the logits of the bonds are in the extras."""
        (level,) = levels
        for_boxes = self.box_tower(level)  # [B, width, H, W]
        votes = self.decode(
            [self.classes(self.class_tower(level))], [self.distances(for_boxes)], [self.centerness(for_boxes)]
        )
        right, down = bond_logits(self.glues(for_boxes).float())
        extras = {"right": right, "down": down}
        if self.confidence is None:
            return replace(votes, extras=extras)
        confidence = self.confidence(for_boxes).float().sigmoid().clamp(min=MIN_CONFIDENCE)  # [B, 1, H, W]
        maps = torch.cat((votes.boxes, votes.logits), dim=2).transpose(1, 2).unflatten(2, level.shape[-2:])
        assembled = assemble(maps, confidence, right.sigmoid(), down.sigmoid(), self.rounds)  # [B, 4 + K, H, W]
        boxes, logits = assembled.flatten(2).transpose(1, 2).split((4, votes.logits.shape[2]), dim=2)
        return replace(votes, boxes=boxes, logits=logits, extras=extras)

    def losses(self, output: HeadOutput, matches: Matches) -> dict[str, Tensor]:
        """The loss of the assembled boxes, and the bonds': 1 within an object, 0 between it and anything else."""
        size = output.extras["right"].shape[-2], output.extras["down"].shape[-1]
        owners = torch.full_like(output.logits[..., 0], -1, dtype=torch.int64)  # [B, N]
        owners[matches.images, matches.points] = matches.objects
        owners = owners.unflatten(1, size)[:, None]  # [B, 1, H, W]
        across = _bond_loss(output.extras["right"], owners[..., :-1], owners[..., 1:])
        along = _bond_loss(output.extras["down"], owners[..., :-1, :], owners[..., 1:, :])
        total, bonds = torch.stack(across) + torch.stack(along)
        return {**super().losses(output, matches), "bond": total / mean_across_processes(bonds, least=1.0)}

    def geometry(self) -> Geometry:
        """Each cell in the core of an object is a patch of it, or of the smallest one of several."""
        rule = partial(assign_fcos_batch, level_ranges=[(0.0, inf)], center_radius=CORE_RADIUS)
        return replace(super().geometry(), rule=rule)


def bond_logits(glues: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the bonds with the right neighbour ``[B, 1, H, W - 1]`` and the one below ``[B, 1, H - 1, W]``.

    Args:
        glues: ``[B, 4, H, W]``: of each cell's left, top, right and bottom side. A bond is the mean of the two that
            meet, so either side can refuse it.
    """
    left, top, right, bottom = glues.split(1, dim=1)  # [B, 1, H, W] each
    return (right[..., :-1] + left[..., 1:]) / 2, (bottom[..., :-1, :] + top[..., 1:, :]) / 2


def assemble(votes: Tensor, confidence: Tensor, right: Tensor, down: Tensor, rounds: int) -> Tensor:
    """Votes after so many rounds of averaging with bonded neighbours.

    Weight and weighted vote diffuse alike, and the result is their quotient: a mean whose weights are confidence times
    bonds (paths of them, after several rounds). All weights are positive, so an edge never passes its opposite.

    Args:
        votes: ``[B, C, H, W]``.
        confidence: ``[B, 1, H, W]``, above 0.
        right: ``[B, 1, H, W - 1]`` in ``[0, 1]``, bonds of each cell with its right neighbour.
        down: ``[B, 1, H - 1, W]``, with the one below.

    Returns:
        ``[B, C, H, W]``.
    """
    to_left, to_right = F.pad(right, (1, 0)), F.pad(right, (0, 1))  # [B, 1, H, W] each
    to_top, to_bottom = F.pad(down, (0, 0, 1, 0)), F.pad(down, (0, 0, 0, 1))
    kept = 1 - SHARE * (to_left + to_right + to_top + to_bottom)
    mass = torch.cat((confidence, votes * confidence), dim=1)  # [B, 1 + C, H, W]
    for _ in range(rounds):
        received = (
            to_left * F.pad(mass, (1, 0))[..., :-1]
            + to_right * F.pad(mass, (0, 1))[..., 1:]
            + to_top * F.pad(mass, (0, 0, 1, 0))[..., :-1, :]
            + to_bottom * F.pad(mass, (0, 0, 0, 1))[..., 1:, :]
        )
        mass = kept * mass + SHARE * received
    return mass[:, 1:] / mass[:, :1]


def _bond_loss(logits: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the bonds of cells owned by ``first`` and ``second``, summed where one has an object, and the
    number of those bonds."""
    counts = ((first >= 0) | (second >= 0)).to(logits.dtype)
    wanted = (first == second).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, wanted, counts, reduction="sum"), counts.sum()
