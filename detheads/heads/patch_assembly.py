"""Objects assembled from patches: cells vote for a box, bond with their neighbours, and agree.

Hypothesis: each patch of an object sees some of its edges well and guesses the others, so a box put together from the
votes of all patches is better than the vote of any. As in self-assembling tiles, what belongs together is decided
locally: each cell has a glue on each of its four sides, and the bond of two cells comes from the two glues that meet.
Over a few rounds the votes (absolute edges and class evidence) spread along the bonds, weighted by the confidence of
their patches; bonds are taught to be 1 within an object and 0 across its border.

An object is assembled at the level of a pyramid where its longest side is four to eight cells, and every cell of its
box there is a patch of it, those at its edges with the same say as those in its middle. A round is a step of diffusion
with conserved mass: the patches of a block, fully bonded in itself and to nothing else, converge to exactly the
confidence-weighted mean of their votes.

Sources: Winfree 1998, "Algorithmic Self-Assembly of DNA" (tiles and glues); Leibe, Leonardis, Schiele 2004, "Combined
Object Categorization and Segmentation with an Implicit Shape Model" (patches that vote); Perona, Malik 1990,
"Scale-Space and Edge Detection Using Anisotropic Diffusion"; the row ``patch_assembly`` of phanerozoic/detection-heads.
Refuted if the same head with ``rounds=0``, or with votes that spread as if all cells were bonded (``bonds=full``), does
as well: ``detheads arena run --heads patch_assembly --with-controls``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.headkit.contract import HeadOutput
from detheads.headkit.controls import Control
from detheads.headkit.dense import TowerConfig, fcos_ranges, init_prediction
from detheads.headkit.matching import Geometry, Matches
from detheads.headkit.octaves import OctaveHead
from detheads.headkit.registry import register
from detheads.ops.across import mean_across_processes
from detheads.targets.fcos import assign_fcos_batch

LEVELS = 5
SHARE = 0.2
"""Of a cell's mass, what each full bond exchanges in a round; with four bonds and itself, a plain average of five."""
MIN_CONFIDENCE = 0.01


@dataclass(frozen=True)
class Config(TowerConfig):
    """Options of ``patch_assembly``.

    Attributes:
        rounds: of assembly; 0 leaves the votes as they are, without glue. In eight rounds a vote comes to spread over
            about as many cells (``4 pi * 0.2 * 2 * 8``, 40) as an object of eight by five has.
        bonds: ``learned``, or ``full``: votes spread alike in all directions, over borders too.
    """

    rounds: NonNegativeInt = 8
    bonds: Literal["learned", "full"] = "learned"


@register(Config)
class PatchAssembly(OctaveHead):
    """All patches of an object vote for its box and bond with their neighbours until they agree."""

    controls = MappingProxyType(
        {
            "assembly": Control("A box of the votes of all patches is better than the vote of any.", {"rounds": 0}),
            "bonds": Control(
                "Votes that spread along bonds agree better than those of a plain blur.", {"bonds": "full"}
            ),
        }
    )

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        super().__init__(spec, num_classes, LEVELS, config, assigner="fcos")
        self.rounds = config.rounds
        learned = config.rounds and config.bonds == "learned"
        self.glues = init_prediction(nn.Conv2d(config.width, 4, 3, padding=1)) if learned else None
        self.confidence = init_prediction(nn.Conv2d(config.width, 1, 3, padding=1)) if config.rounds else None

    def predict(self, levels: Sequence[Tensor]) -> HeadOutput:
        """Votes, then the boxes and logits they assemble to; the logits of each level's bonds are in the extras."""
        for_boxes = [self.box_tower(level) for level in levels]  # [B, width, H, W] each
        votes = self.decode(
            [self.classes(self.class_tower(level)) for level in levels],
            [self.distances(level) for level in for_boxes],
            [self.centerness(level) for level in for_boxes],
        )
        if self.confidence is None:
            return votes
        maps = torch.cat((votes.boxes, votes.logits), dim=2).split(self.points_per_level, dim=1)
        assembled, extras = [], []
        for level, vote in zip(for_boxes, maps, strict=True):
            confidence = self.confidence(level).float().sigmoid().clamp(min=MIN_CONFIDENCE)  # [B, 1, H, W]
            if self.glues is None:
                right, down = torch.ones_like(confidence[..., 1:]), torch.ones_like(confidence[..., 1:, :])
            else:
                extras.append(bond_logits(self.glues(level).float()))
                right, down = (logits.sigmoid() for logits in extras[-1])
            on_grid = vote.transpose(1, 2).unflatten(2, level.shape[-2:])
            assembled.append(assemble(on_grid, confidence, right, down, self.rounds).flatten(2))  # [B, 4 + K, H * W]
        boxes, logits = torch.cat(assembled, dim=2).transpose(1, 2).split((4, votes.logits.shape[2]), dim=2)
        return replace(votes, boxes=boxes, logits=logits, extras={"bonds": extras})

    def losses(self, output: HeadOutput, matches: Matches) -> dict[str, Tensor]:
        """The loss of the assembled boxes, and the bonds': 1 within an object, 0 between it and anything else."""
        losses = super().losses(output, matches)
        if self.glues is None:
            return losses
        owners = torch.full_like(output.logits[..., 0], -1, dtype=torch.int64)  # [B, N]
        owners[matches.images, matches.points] = matches.objects
        found = []
        for (right, down), flat in zip(output.extras["bonds"], owners.split(self.points_per_level, dim=1), strict=True):
            on_grid = flat.unflatten(1, (right.shape[-2], down.shape[-1]))[:, None]  # [B, 1, H, W]
            found.append(_bond_loss(right, on_grid[..., :-1], on_grid[..., 1:]))
            found.append(_bond_loss(down, on_grid[..., :-1, :], on_grid[..., 1:, :]))
        total, bonds = torch.stack([torch.stack(each) for each in found]).sum(dim=0)
        return {**losses, "bond": total / mean_across_processes(bonds, least=1.0)}

    def box_loss(self, boxes: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Every patch has the same say, wherever in the box it lies."""
        return super().box_loss(boxes, targets, torch.ones_like(weights))

    def geometry(self) -> Geometry:
        """Each cell within an object, at the level of its size, is a patch of it, or of the smallest one of several."""
        return replace(super().geometry(), rule=partial(assign_by_size, sides=fcos_ranges(self.level_strides)))


def assign_by_size(
    points: Tensor,
    points_per_level: Sequence[int],
    strides: Tensor,
    boxes: Tensor,
    images: Tensor,
    count: int,
    *,
    sides: Sequence[tuple[float, float]],
) -> Tensor:
    """Every point strictly inside an object, at the one level whose range its longest side is in, takes it.

    A point in several takes the smallest.

    Args:
        points, points_per_level, strides, boxes, images, count: as of
            :func:`~detheads.targets.fcos.assign_fcos_batch`.
        sides: of each level, from the first length (excluded, unless it is 0) to the second, input pixels.

    Returns:
        ``[B, N]`` int64, the index of the object among those of the batch, or -1.
    """
    longest = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1, keepdim=True)  # [T, 1]
    everywhere = [(0.0, inf)]
    found = []
    for (low, high), its_points, its_strides in zip(
        sides, points.split(list(points_per_level)), strides.split(list(points_per_level)), strict=True
    ):
        own = boxes * ((longest > low) & (longest <= high))  # a box without area has no point strictly inside
        found.append(
            assign_fcos_batch(
                its_points,
                [len(its_points)],
                its_strides,
                own,
                images,
                count,
                level_ranges=everywhere,
                center_radius=None,
            )
        )
    return torch.cat(found, dim=1)


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
