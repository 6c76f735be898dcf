"""Sinkhorn's plan against the exact linear programme, and the labels that follow from it."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from detheads.headkit import registry
from detheads.headkit.contract import HeadOutput
from detheads.heads.optimal_transport import OptimalTransport
from detheads.targets.objects import TargetBatch, Targets
from detheads.targets.optimal_transport import assign_optimal_transport, sinkhorn
from tests.heads.worlds import SPECS, no_objects, objects, random_features, small_head

SPEC = SPECS["vit-square"]


def _problem(objects: int = 4, points: int = 30, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cost = 3 * torch.rand(objects + 1, points, generator=generator, dtype=torch.float64)
    supplies = torch.randint(1, 6, (objects,), generator=generator).double()
    return cost, torch.cat((supplies, points - supplies.sum()[None])), torch.ones(points, dtype=torch.float64)


def _exact_cost(cost: Tensor, supplies: Tensor, demands: Tensor) -> float:
    rows, columns = cost.shape
    constraints = np.concatenate((np.kron(np.eye(rows), np.ones(columns)), np.kron(np.ones(rows), np.eye(columns))))
    wanted = np.concatenate((supplies.numpy(), demands.numpy()))
    return float(linprog(cost.numpy().ravel(), A_eq=constraints.reshape(rows + columns, -1), b_eq=wanted).fun)


def _assign(cost: Tensor, iou: Tensor, allowed: Tensor, **options: Any) -> Tensor:
    """Labels ``[N]`` of one image, its objects without boxes."""
    objects = Targets(torch.zeros(len(cost), 4), torch.zeros(len(cost), dtype=torch.int64))
    return assign_optimal_transport(cost, iou, allowed, TargetBatch.of([objects]), **options)[0]


@pytest.mark.parametrize("seed", range(3))
def test_the_plan_meets_supplies_and_demands(seed: int) -> None:
    cost, supplies, demands = _problem(seed=seed)
    plan = sinkhorn(cost, supplies, demands, 0.1, 500)
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum(dim=0), demands, rtol=0, atol=1e-9)
    torch.testing.assert_close(plan.sum(dim=1), supplies, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_its_cost_falls_to_the_linear_programmes_as_the_regularisation_vanishes(seed: int) -> None:
    cost, supplies, demands = _problem(seed=seed)
    exact = _exact_cost(cost, supplies, demands)
    excess = [
        float((sinkhorn(cost, supplies, demands, strength, 20_000) * cost).sum()) - exact for strength in (1, 0.1, 0.01)
    ]
    assert excess[0] > excess[1] > excess[2] > -1e-3
    assert excess[0] > 0.05 * exact
    assert excess[2] < 0.002 * exact


def test_a_permutation_of_objects_permutes_plan_and_labels() -> None:
    cost, supplies, demands = _problem()
    order = torch.tensor([2, 0, 3, 1])
    rows = torch.cat((order, torch.tensor([4])))
    plan = sinkhorn(cost, supplies, demands, 0.1, 50)
    torch.testing.assert_close(sinkhorn(cost[rows], supplies[rows], demands, 0.1, 50), plan[rows])
    iou = torch.rand(4, 30, generator=torch.Generator().manual_seed(1)).double()
    matched, permuted = (
        _assign(cost[rows], iou[rows], iou[rows] > 0.3, top_q=3, regularisation=0.05, iterations=50).tolist()
        for rows in (torch.arange(4), order)
    )
    assert len(set(matched)) == 5
    assert [order[index].item() if index >= 0 else -1 for index in permuted] == matched


def test_an_object_gets_as_many_of_its_cheapest_points_as_its_predictions_overlap_it() -> None:
    cost, iou = torch.arange(12.0)[None] / 4, torch.zeros(1, 12)
    iou[0, 6:] = torch.tensor([0.9, 0.8, 0.9, 0.7, 0.05, 0.05])  # 3.3 among the best four, 3 units
    allowed = torch.arange(12)[None] != 1
    matched = _assign(cost, iou, allowed, top_q=4, regularisation=0.05, iterations=50)
    assert torch.nonzero(matched == 0).flatten().tolist() == [0, 2, 3]
    assert set(matched.tolist()) == {0, -1}


def test_predictions_of_points_that_an_object_may_not_have_earn_it_nothing() -> None:
    cost, iou = torch.arange(8.0)[None] / 4, torch.tensor([[0.9, 0.8, 0.4, 0.4, 0.0, 0.0, 1.0, 1.0]])
    allowed = torch.arange(8)[None] < 6
    matched = _assign(cost, iou, allowed, top_q=4, regularisation=0.05, iterations=50)
    assert torch.nonzero(matched == 0).flatten().tolist() == [0, 1]  # 2.5 in all, 2 units


@pytest.mark.parametrize("allowed", [[], [2]])
def test_an_object_that_may_have_one_point_or_none_gets_it(allowed: list[int]) -> None:
    mask = torch.zeros(1, 5, dtype=torch.bool)
    mask[0, allowed] = True
    matched = _assign(torch.ones(1, 5), torch.zeros(1, 5), mask, top_q=10, regularisation=0.1, iterations=50)
    assert torch.nonzero(matched == 0).flatten().tolist() == allowed


def test_equally_cheap_points_do_not_leave_an_object_without_any() -> None:
    matched = _assign(
        torch.ones(1, 9),
        torch.zeros(1, 9),
        torch.ones(1, 9, dtype=torch.bool),
        top_q=10,
        regularisation=0.1,
        iterations=9,
    )
    assert (matched == 0).any()


def test_two_objects_that_want_one_point_settle_for_the_least_total_cost() -> None:
    """Taken greedily, the first object would have point 0, and the second would pay 5."""
    cost = torch.tensor([[1.0, 1.5, 9.0], [1.2, 5.0, 9.0]])
    matched = _assign(
        cost, torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), top_q=1, regularisation=0.05, iterations=200
    )
    assert matched.tolist() == [1, 0, -1]


def test_more_objects_than_points_share_them() -> None:
    allowed = torch.ones(5, 2, dtype=torch.bool)
    matched = _assign(
        torch.rand(5, 2, generator=torch.Generator().manual_seed(0)),
        torch.ones(5, 2), allowed, top_q=10, regularisation=0.1, iterations=50,
    )  # fmt: skip
    assert matched.min() >= 0


def test_every_object_that_holds_a_point_learns_and_only_by_points_within_it() -> None:
    head = small_head(registry.entry("optimal_transport"), SPEC)
    assert isinstance(head, OptimalTransport)
    target = objects(SPEC)
    with torch.no_grad():
        output = head(random_features(SPEC, 2))
    matches = head.match(output, [no_objects(), target])
    assert set(matches.images.tolist()) == {1}
    assert {tuple(box) for box in matches.boxes.tolist()} == {tuple(box) for box in target.boxes.tolist()}
    points = head.points[matches.points]
    assert ((points > matches.boxes[:, :2]) & (points < matches.boxes[:, 2:])).all()


def test_points_that_predict_an_object_well_learn_it() -> None:
    """Geometry being alike, the predictions decide, which no fixed assignment could do."""
    head = small_head(registry.entry("optimal_transport"), SPEC)
    assert isinstance(head, OptimalTransport)
    target = Targets(torch.tensor([[32.0, 32.0, 96.0, 96.0]]), torch.tensor([0]))
    assert head.points_per_level[0] == 16 * 16
    for row, column in ((7, 7), (7, 8), (8, 7), (8, 8)):  # the four points of stride 8 around the centre
        boxes = torch.tensor([0.0, 0.0, 8.0, 8.0]).repeat(1, len(head.points), 1)
        boxes[0, row * 16 + column] = target.boxes[0]
        matches = head.match(HeadOutput(boxes, torch.zeros(1, boxes.shape[1], 1), None, {}), [target])
        assert matches.points.tolist() == [row * 16 + column]


def _alone(cost: Tensor, iou: Tensor, allowed: Tensor, top_q: int, regularisation: float, iterations: int) -> list[int]:
    """Labels of one image: its candidates picked out, and potentials of rows and columns in place of the plan."""
    matched = torch.full((cost.shape[1],), -1)
    ranked = torch.where(allowed, cost, torch.inf).topk(min(4 * top_q, cost.shape[1]), dim=1, largest=False).indices
    candidates = (torch.zeros_like(allowed).scatter(1, ranked, True) & allowed).any(dim=0).nonzero().squeeze(1)
    if len(candidates) == 0:
        return matched.tolist()
    best = torch.where(allowed, iou, 0.0).topk(min(top_q, iou.shape[1]), dim=1).values
    cost, allowed = cost[:, candidates], allowed[:, candidates]
    units = best.sum(dim=1).floor().clamp(min=1).minimum(allowed.sum(dim=1))
    units = units * (len(candidates) / units.sum()).clamp(max=1)
    kernel = torch.cat((torch.where(allowed, -cost, -1000.0), torch.zeros_like(cost[:1]))) / regularisation
    log_supplies = torch.cat((units, (len(candidates) - units.sum()).clamp(min=0)[None])).log()
    columns = torch.zeros_like(kernel[0])
    for _ in range(iterations):
        rows = log_supplies - (kernel + columns).logsumexp(dim=1)
        columns = -(kernel + rows[:, None]).logsumexp(dim=0)
    plan = (kernel + rows[:, None] + columns).exp()
    objects = plan[:-1] * allowed
    heaviest = (objects == objects.amax(dim=1, keepdim=True)) & allowed
    own = torch.where(heaviest, objects, -1.0).argmax(dim=0)
    chosen = torch.where(objects.amax(dim=0) > plan[-1], objects.argmax(dim=0), -1)
    matched[candidates] = torch.where(heaviest.any(dim=0), own, chosen)
    return matched.tolist()


@pytest.mark.parametrize("many", [1024, 5])
@pytest.mark.parametrize("counts", [(3, 0, 5, 1), (2, 12, 1, 30), (0, 0), (1,)])
def test_each_image_of_a_batch_is_solved_as_if_it_were_alone(
    counts: tuple[int, ...], many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images with few and with many objects, and with none; one object may have no point."""
    monkeypatch.setattr("detheads.targets.optimal_transport.MANY", many)
    generator = torch.Generator().manual_seed(sum(counts))
    targets = TargetBatch.of(
        [Targets(torch.zeros(count, 4), torch.zeros(count, dtype=torch.int64)) for count in counts]
    )
    cost, iou = torch.rand(2, sum(counts), 60, generator=generator, dtype=torch.float64)
    allowed = torch.rand(cost.shape, generator=generator) < 0.3
    allowed[:1] = False
    options = {"top_q": 3, "regularisation": 0.05, "iterations": 40}
    matched = assign_optimal_transport(4 * cost, iou, allowed, targets, **options)  # type: ignore[arg-type]
    assert matched.shape == (len(counts), 60)
    start = 0
    for labels, count in zip(matched.tolist(), counts, strict=True):
        own = slice(start, start + count)
        expected = _alone(4 * cost[own], iou[own], allowed[own], **options) if count else [-1] * 60  # type: ignore[arg-type]
        assert [label - start if label >= 0 else -1 for label in labels] == expected
        start += count
