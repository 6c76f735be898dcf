"""What is particular to the sparse queries: nothing but the best places is asked, and they hear each other."""

import numpy as np
import pytest
import torch
from torch import Tensor

from detheads.backbones.features import FeatureLayer, FeatureSpec
from detheads.evaluation.predict import default_thresholds
from detheads.headkit import registry
from detheads.headkit.contract import HeadOutput
from detheads.heads.sparse_query import SparseQuery
from detheads.targets.objects import Targets
from tests.heads.worlds import random_features

SPEC = FeatureSpec((FeatureLayer("last", 32, 16),), ("last",), 96, 160)
PLACES = 12 * 20 + 6 * 10 + 3 * 5


def _build(**options: object) -> SparseQuery:
    torch.manual_seed(0)
    head = registry.build("sparse_query", SPEC, 3, {"width": 32, "queries": 30} | options).eval()
    assert isinstance(head, SparseQuery)
    return head


def _levels_and_objectness(head: SparseQuery) -> tuple[list[Tensor], Tensor]:
    with torch.no_grad():
        levels = head.levels(random_features(SPEC, 2))
    return levels, torch.randn(2, PLACES, generator=torch.Generator().manual_seed(1))


def test_the_places_of_highest_objectness_are_asked_best_first() -> None:
    head = _build()
    with torch.no_grad():
        output = head(random_features(SPEC, 2))
    objectness = output.extras["objectness"].numpy()
    assert objectness.shape == (2, PLACES)
    best = np.argsort(-objectness, axis=1, kind="stable")[:, :30]
    assert output.extras["chosen"].tolist() == best.tolist()
    points = head.points[torch.from_numpy(best)]
    assert (output.boxes[..., :2] < points).all()
    assert (points < output.boxes[..., 2:]).all()


def test_features_of_other_places_do_not_change_the_output() -> None:
    head = _build()
    levels, objectness = _levels_and_objectness(head)
    chosen = {n for row in objectness.topk(30, dim=1).indices.tolist() for n in row}
    other = torch.tensor([float(n not in chosen) for n in range(PLACES)])
    masks = [part.view(1, 1, *level.shape[2:]) for part, level in zip(other.split([240, 60, 15]), levels, strict=True)]
    with torch.no_grad():
        before = head.ask(levels, objectness)
        after = head.ask([level + 9 * mask for level, mask in zip(levels, masks, strict=True)], objectness)
        all_changed = head.ask([level + 9 * torch.randn_like(level) for level in levels], objectness)
    assert torch.equal(after.boxes, before.boxes)
    assert torch.equal(after.logits, before.logits)
    assert not torch.allclose(all_changed.logits, before.logits)


@pytest.mark.parametrize(("layers", "hear"), [(0, False), (1, True)])
def test_places_hear_each_other_through_the_layers_alone(layers: int, hear: bool) -> None:
    head = _build(layers=layers)
    levels, objectness = _levels_and_objectness(head)
    objectness[:, 0] = 100.0
    first_cell = torch.zeros_like(levels[0])
    first_cell[..., 0, 0] = torch.arange(32.0)
    changed = [levels[0] + first_cell, *levels[1:]]
    with torch.no_grad():
        before, after = head.ask(levels, objectness).logits[0], head.ask(changed, objectness).logits[0]
    assert not torch.allclose(after[0], before[0])
    assert torch.allclose(after[1:], before[1:]) is not hear


def test_a_small_input_is_asked_everywhere() -> None:
    output = _build(queries=1000)(random_features(SPEC, 1))
    assert output.boxes.shape == (1, PLACES, 4)
    assert sorted(output.extras["chosen"][0].tolist()) == list(range(PLACES))


def test_objectness_is_high_on_object_points_and_low_elsewhere_when_its_loss_is_low() -> None:
    head = _build()
    targets = [Targets(torch.tensor([[20.0, 20.0, 75.0, 70.0]]), torch.tensor([1]))]
    with torch.no_grad():
        output = head(random_features(SPEC, 1))
    objectness = torch.zeros(1, PLACES, requires_grad=True)
    head.loss(HeadOutput(output.boxes, output.logits, None, {"objectness": objectness}), targets)[
        "objectness"
    ].backward()
    assert objectness.grad is not None
    wanted = objectness.grad[0] < 0  # raising these lowers the loss
    points = head.points[wanted]
    assert 1 <= len(points) <= 27
    assert ((points > 20) & (points < torch.tensor([75.0, 70.0]))).all()


def test_asked_everywhere_each_place_answers_for_itself_and_needs_suppression() -> None:
    """What the same weights say of a place that is asked and hears nobody."""
    dense, sparse = _build(asked="all"), _build(layers=0, queries=1000)
    absent = sparse.load_state_dict(dense.state_dict(), strict=False)
    assert set(absent.missing_keys) == {"objectness.weight", "level_bias"} and not absent.unexpected_keys
    features = random_features(SPEC, 2)
    with torch.no_grad():
        output, asked = dense(features), sparse(features)
    order = asked.extras["chosen"].argsort(dim=1).unsqueeze(2)
    torch.testing.assert_close(output.boxes, asked.boxes.gather(1, order.expand(-1, -1, 4)))
    torch.testing.assert_close(output.logits, asked.logits.gather(1, order.expand(-1, -1, 3)))
    assert (default_thresholds(dense).nms_iou, default_thresholds(sparse).nms_iou) == (0.5, 1.0)


def test_asked_everywhere_the_points_of_atss_learn_and_all_others_are_background() -> None:
    dense = _build(asked="all")
    target = Targets(torch.tensor([[20.0, 20.0, 75.0, 70.0]]), torch.tensor([1]))
    with torch.no_grad():
        output = dense(random_features(SPEC, 1))
    plain = registry.build("plain", SPEC, 3, {"width": 32, "levels": 3})
    positive = plain.match(output, [target]).points
    boxes, logits = output.boxes.clone(), torch.full_like(output.logits, -50.0)
    boxes[0, positive], logits[0, positive, 1] = target.boxes[0], 50.0

    def loss_of(logits: Tensor) -> float:
        return float(torch.stack(list(dense.loss(HeadOutput(boxes, logits, None, {}), [target]).values())).sum())

    assert loss_of(logits) < 1e-5
    elsewhere = logits.clone()
    elsewhere[0, next(n for n in range(PLACES) if n not in positive.tolist()), 1] = 50.0
    assert loss_of(elsewhere) > 1
