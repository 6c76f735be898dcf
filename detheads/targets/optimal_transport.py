"""Assignment as transport: objects offer units of supervision, points take one each, the cheapest plan wins.

Sources: Ge et al. 2021, "OTA: Optimal Transport Assignment for Object Detection"; Cuturi 2013, "Sinkhorn Distances:
Lightspeed Computation of Optimal Transport".
"""

from collections import defaultdict

import torch
from torch import Tensor

from detheads.targets.objects import TargetBatch

CANDIDATES_PER_UNIT = 4
"""An object competes for so many times ``top_q`` points; more expensive ones would end as background anyway."""

FEW = 8
"""Images with up to so many objects are solved together. Above, a set has at most twice as many as its least: a crowded
image would have all others take its size, which is work on a CPU. (Sixteen images of 8 take as long as one of 60.)"""

MANY = 1024
"""Points that images may have for a plan without asking how many they do have. Crowded ones have far fewer than there
could be (eight images of 300 small objects: 55 s unasked, 6.5 s asked), which is worth waiting for the device."""

TOGETHER = 512
"""Objects in the images that are solved at once: 64 images of 8, or one of 300, which fills a processor by itself."""

NOTHING = 1e-30
"""A supply or a demand of nothing: its logarithm is finite, and no sum notices it."""


def sinkhorn(cost: Tensor, supplies: Tensor, demands: Tensor, regularisation: float, iterations: int) -> Tensor:
    """Entropic transport plans, by alternating scaling in the log domain.

    Each minimises ``<plan, cost> - regularisation * entropy(plan)`` over plans whose rows sum to the supplies and whose
    columns sum to the demands. After any number of iterations the columns sum exactly, the rows in the limit.

    Args:
        cost: ``[..., M, N]`` of moving one unit.
        supplies: ``[..., M]``, 0 or more, one at least above 0.
        demands: ``[..., N]``, 0 or more; the same total as the supplies.
        regularisation: above 0, in the unit of the cost; the smaller, the closer to the exact plan, and the slower.
        iterations: at least 1.

    Returns:
        ``[..., M, N]``, units moved.
    """
    plan = -cost / regularisation  # its logarithm, up to a factor a row and a column
    rows, columns = (sums.clamp(min=NOTHING).log() for sums in (supplies.unsqueeze(-1), demands.unsqueeze(-2)))
    for _ in range(iterations):
        plan = plan.log_softmax(dim=-1) + rows
        plan = plan.log_softmax(dim=-2) + columns
    return plan.exp()


def assign_optimal_transport(
    cost: Tensor,
    iou: Tensor,
    allowed: Tensor,
    targets: TargetBatch,
    *,
    top_q: int,
    regularisation: float,
    iterations: int,
) -> Tensor:
    """Give each point of an image to the object, or the background, that sends it the largest mass.

    An object offers ``k`` units: the sum of its ``top_q`` IoUs with the predictions, rounded down, at least 1 and at
    most the points it may have. The background offers what the points want besides. A plan spread over many equally
    cheap points could leave an object with none; the point of its largest mass is therefore always its own.

    Args:
        cost: ``[T, N]`` of a point of its image learning an object rather than background.
        iou: ``[T, N]`` of the objects with the points' current predictions.
        allowed: ``[T, N]`` bool, whether the point may learn the object.
        targets: the ``T`` objects, of ``B`` images; their boxes are not asked.
        top_q: IoUs that count towards ``k``.
        regularisation, iterations: see :func:`sinkhorn`.

    Returns:
        ``[B, N]`` int64, the index of the object among the ``T``, or -1.
    """
    points = cost.shape[1]
    matched = torch.full((len(targets), points), -1, dtype=torch.int64, device=cost.device)
    listed = _cheapest(cost, allowed, CANDIDATES_PER_UNIT * top_q)  # [T, Q]
    best = torch.where(allowed, iou, 0.0).topk(min(top_q, points), dim=1).values  # [T, top_q]
    units = best.sum(dim=1).floor().clamp(min=1).minimum(allowed.sum(dim=1).to(best.dtype))  # [T]
    for images, objects in _alike(targets, cost.device):
        real = objects >= 0  # [G, M]
        objects = objects.clamp(min=0)
        wanted = torch.where(real[..., None], listed[objects], points).flatten(1)  # [G, M * Q]
        columns, taken = _distinct(wanted, points)  # [G, C] each
        if columns.shape[1] > MANY:
            widest = max(1, int(taken.sum(dim=1).max()))
            columns, taken = columns[:, :widest], taken[:, :widest]
        chosen = objects[..., None], columns[:, None, :]
        won = _solve(
            cost[chosen],
            allowed[chosen] & real[..., None] & taken[:, None, :],
            units[objects] * real,
            taken,
            regularisation,
            iterations,
        )  # [G, C]
        matched[images[:, None], columns] = torch.where(won >= 0, objects.gather(1, won.clamp(min=0)), won)
    return matched


def _solve(
    cost: Tensor, allowed: Tensor, units: Tensor, taken: Tensor, regularisation: float, iterations: int
) -> Tensor:
    """Which of the ``M`` objects of its image each of ``C`` points learns, -1 for background: ``[G, C]``.

    Args:
        cost, allowed: ``[G, M, C]``.
        units: ``[G, M]``, 0 for an object that is none.
        taken: ``[G, C]`` bool, False for a point that is none.
    """
    demands = taken.to(cost.dtype)  # [G, C]
    points = demands.sum(dim=1, keepdim=True)  # [G, 1]
    total = units.sum(dim=1, keepdim=True).clamp(min=NOTHING)
    units = units * (points / total).clamp(max=1)  # crowded objects share what there is
    rest = (points - units.sum(dim=1, keepdim=True)).clamp(min=0)
    far = 2 * cost.abs().max() + 1000 * regularisation  # moves nothing, yet keeps the logarithms finite
    background = torch.where(taken, torch.zeros_like(far), far)[:, None]  # [G, 1, C]
    cost = torch.cat((torch.where(allowed, cost, far), background), dim=1)  # [G, M + 1, C], background last
    plan = sinkhorn(cost, torch.cat((units, rest), dim=1), demands, regularisation, iterations)

    objects, background = plan[:, :-1] * allowed, plan[:, -1]  # [G, M, C], [G, C]
    heaviest = (objects == objects.amax(dim=2, keepdim=True)) & allowed
    own = torch.where(heaviest, objects, -1.0).argmax(dim=1)  # [G, C]
    most, winner = objects.max(dim=1)
    chosen = torch.where(most > background, winner, -1)
    return torch.where(heaviest.any(dim=1), own, chosen)


def _cheapest(cost: Tensor, allowed: Tensor, count: int) -> Tensor:
    """Indices ``[T, Q]`` of the ``count`` cheapest points of each object, ``N`` in place of those it may not have."""
    points = cost.shape[1]
    ranked = torch.where(allowed, cost, torch.inf).topk(min(count, points), dim=1, largest=False).indices
    return torch.where(allowed.gather(1, ranked), ranked, points)


def _distinct(indices: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Each index below ``limit`` once, ascending, others behind them, and which are which: ``[G, C]`` from ``[G, S]``.

    ``C`` is the most there can be, so that no device has to tell how many there are.
    """
    listed = torch.zeros(len(indices), limit + 1, dtype=torch.bool, device=indices.device)
    listed = listed.scatter(1, indices, True)[:, :limit]  # [G, limit]
    order = listed.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : indices.shape[1]]
    return order, listed.gather(1, order)


def _alike(targets: TargetBatch, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Sets of images with about as many objects: the images ``[G]`` and their objects ``[G, M]``, -1 behind them."""
    sets: dict[int, list[int]] = defaultdict(list)
    for image, count in enumerate(targets.counts):
        if count:
            sets[(max(FEW, count) - 1).bit_length()].append(image)
    counts = torch.tensor(targets.counts)  # [B]
    starts = counts.cumsum(0) - counts
    pieces: list[list[int]] = []
    for bits, alike in sets.items():
        size = max(1, TOGETHER >> bits)  # the set's images have up to 2 ** bits objects
        pieces.extend(alike[first : first + size] for first in range(0, len(alike), size))
    found = []
    for listed in pieces:
        images = torch.tensor(listed)
        places = torch.arange(max(targets.counts[image] for image in listed))  # [M]
        objects = torch.where(places < counts[images, None], starts[images, None] + places, -1)
        found.append((images.to(device, non_blocking=True), objects.to(device, non_blocking=True)))
    return found
