"""Assignment as transport: objects offer units of supervision, points take one each, the cheapest plan wins.

Sources: Ge et al. 2021, "OTA: Optimal Transport Assignment for Object Detection"; Cuturi 2013, "Sinkhorn Distances:
Lightspeed Computation of Optimal Transport".
"""

import torch
from torch import Tensor

CANDIDATES_PER_UNIT = 4
"""An object competes for so many times ``top_q`` points; more expensive ones would end as background anyway."""


def sinkhorn(cost: Tensor, supplies: Tensor, demands: Tensor, regularisation: float, iterations: int) -> Tensor:
    """The entropic transport plan, by alternating scaling in the log domain.

    It minimises ``<plan, cost> - regularisation * entropy(plan)`` over plans whose rows sum to the supplies and whose
    columns sum to the demands. After any number of iterations the columns sum exactly, the rows in the limit.

    Args:
        cost: ``[M, N]`` of moving one unit.
        supplies: ``[M]``, 0 or more, one at least above 0.
        demands: ``[N]``, above 0; the same total as the supplies.
        regularisation: above 0, in the unit of the cost; the smaller, the closer to the exact plan, and the slower.
        iterations: at least 1.

    Returns:
        ``[M, N]``, units moved.
    """
    kernel = -cost / regularisation  # [M, N]
    log_supplies, log_demands = supplies.log(), demands.log()  # -inf where there is nothing to move
    columns = torch.zeros_like(demands)
    for _ in range(iterations):
        rows = log_supplies - _logsumexp(kernel + columns, 1)  # [M]
        columns = log_demands - _logsumexp(kernel + rows[:, None], 0)  # [N]
    return (kernel + rows[:, None] + columns).exp()


def assign_optimal_transport(
    cost: Tensor, iou: Tensor, allowed: Tensor, *, top_q: int, regularisation: float, iterations: int
) -> Tensor:
    """Give each point to the object, or the background, that sends it the largest mass.

    An object offers ``k`` units: the sum of its ``top_q`` IoUs with the predictions, rounded down, at least 1 and at
    most the points it may have. The background offers what the points want besides. A plan spread over many equally
    cheap points could leave an object with none; the point of its largest mass is therefore always its own.

    Args:
        cost: ``[M, N]`` of point ``n`` learning object ``m`` rather than background.
        iou: ``[M, N]`` of the objects with the points' current predictions.
        allowed: ``[M, N]`` bool, whether the point may learn the object.
        top_q: IoUs that count towards ``k``.
        regularisation, iterations: see :func:`sinkhorn`.

    Returns:
        ``[N]`` int64, the index of the object or -1.
    """
    matched = torch.full((cost.shape[1],), -1, dtype=torch.int64, device=cost.device)
    candidates = _cheapest(cost, allowed, CANDIDATES_PER_UNIT * top_q)
    if len(candidates) == 0:
        return matched
    best = torch.where(allowed, iou, 0.0).topk(min(top_q, iou.shape[1]), dim=1).values  # [M, Q]
    cost, allowed = cost[:, candidates], allowed[:, candidates]  # [M, C]
    units = best.sum(dim=1).floor().clamp(min=1).minimum(allowed.sum(dim=1).to(best.dtype))  # [M]
    units = units * (len(candidates) / units.sum()).clamp(max=1)  # crowded objects share what there is
    far = 2 * cost.abs().max() + 1000 * regularisation  # moves nothing, yet keeps the logarithms finite
    cost = torch.cat((torch.where(allowed, cost, far), torch.zeros_like(cost[:1])))  # [M + 1, C], background last
    rest = (len(candidates) - units.sum()).clamp(min=0)
    plan = sinkhorn(cost, torch.cat((units, rest[None])), torch.ones_like(cost[0]), regularisation, iterations)

    objects = plan[:-1] * allowed  # [M, C]
    heaviest = (objects == objects.amax(dim=1, keepdim=True)) & allowed
    own = torch.where(heaviest, objects, -1.0).argmax(dim=0)  # [C]
    most, winner = objects.max(dim=0)
    chosen = torch.where(most > plan[-1], winner, -1)
    matched[candidates] = torch.where(heaviest.any(dim=0), own, chosen)
    return matched


def _cheapest(cost: Tensor, allowed: Tensor, count: int) -> Tensor:
    """Indices ``[C]`` of the points that are among the ``count`` cheapest of some object, ascending."""
    ranked = torch.where(allowed, cost, torch.inf).topk(min(count, cost.shape[1]), dim=1, largest=False).indices
    listed = torch.zeros_like(allowed).scatter(1, ranked, True) & allowed  # [M, N]
    return torch.nonzero(listed.any(dim=0)).squeeze(1)


def _logsumexp(x: Tensor, dim: int) -> Tensor:
    """``x.logsumexp(dim)``, several times faster: exponentials that underflow take a slow path, so none does here."""
    highest = x.amax(dim=dim, keepdim=True)
    return (x - highest).clamp(min=-80).exp().sum(dim=dim).log() + highest.squeeze(dim)
