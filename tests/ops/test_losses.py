import math

import pytest
import torch
from torchvision.ops import generalized_box_iou_loss

from detheads.ops.losses import centerness_loss, focal_cost, giou_loss, heatmap_focal_loss, sigmoid_focal_loss


@pytest.mark.parametrize("options", [{}, {"alpha": 0.4, "gamma": 1.5}])
def test_focal_loss_is_the_papers_formula_summed(options: dict[str, float]) -> None:
    alpha, gamma = options.get("alpha", 0.25), options.get("gamma", 2.0)
    logits = torch.randn(2, 50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    targets = (torch.rand(logits.shape, generator=torch.Generator().manual_seed(1)) < 0.1).double()
    p = torch.where(targets == 1, logits.sigmoid(), 1 - logits.sigmoid())
    weight = torch.where(targets == 1, alpha, 1 - alpha)
    expected = -(weight * (1 - p) ** gamma * p.log()).sum()
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets, **options), expected)


def test_focal_loss_stays_finite_at_extreme_logits() -> None:
    logits = torch.tensor([-200.0, 200.0, -200.0, 200.0], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([0.0, 1.0, 1.0, 0.0]))
    loss.backward()
    assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


def test_focal_cost_is_the_difference_of_the_focal_losses_as_object_and_as_background() -> None:
    for logit in (-6.0, -0.5, 0.0, 3.0):
        one = torch.tensor([logit], dtype=torch.float64)
        as_object, as_background = (sigmoid_focal_loss(one, torch.full_like(one, target)) for target in (1.0, 0.0))
        torch.testing.assert_close(focal_cost(one).squeeze(), as_object - as_background)


@pytest.mark.parametrize("options", [{}, {"alpha": 1.5, "beta": 3.0}])
def test_heatmap_loss_is_the_papers_formula_summed(options: dict[str, float]) -> None:
    alpha, beta = options.get("alpha", 2.0), options.get("beta", 4.0)
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(2, 3, 5, 6, dtype=torch.float64, generator=generator) * 4
    targets = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
    targets[:, :, 1, 2] = 1.0
    expected = 0.0
    for logit, y in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        expected -= (1 - p) ** alpha * math.log(p) if y == 1 else (1 - y) ** beta * p**alpha * math.log(1 - p)
    assert float(heatmap_focal_loss(logits, targets, **options)) == pytest.approx(expected, rel=1e-9)


def test_heatmap_loss_stays_finite_at_extreme_logits() -> None:
    logits = torch.tensor([-200.0, 200.0, -200.0, 200.0, 200.0], requires_grad=True)
    loss = heatmap_focal_loss(logits, torch.tensor([0.0, 1.0, 1.0, 0.0, 0.5]))
    loss.backward()
    assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


def test_giou_loss_equals_torchvisions() -> None:
    corners = torch.rand(2, 500, 2, 2, generator=torch.Generator().manual_seed(2)) * 100
    predicted, target = torch.cat((corners.amin(dim=2), corners.amax(dim=2)), dim=2)
    torch.testing.assert_close(
        giou_loss(predicted, target), generalized_box_iou_loss(predicted, target), rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("predicted", "target", "loss"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10], 0.0),
        ([0, 0, 10, 10], [10, 0, 20, 10], 1.0),  # touching: IoU 0, no gap in the hull
        ([0, 0, 10, 10], [20, 0, 30, 10], 1.0 + 1 / 3),
        ([0, 0, 10, 10], [0, 0, 10, 20], 0.5),
    ],
)
def test_giou_loss_of_known_pairs(predicted: list[int], target: list[int], loss: float) -> None:
    value = giou_loss(torch.tensor([predicted]).float(), torch.tensor([target]).float())
    assert value.tolist() == pytest.approx([loss], abs=1e-6)


@pytest.mark.parametrize("target", [[5.0, 5.0, 5.0, 5.0], [7.0, 5.0, 7.0, 9.0], [0.0, 0.0, 10.0, 10.0]])
def test_giou_loss_and_gradient_are_finite_for_boxes_without_area(target: list[float]) -> None:
    predicted = torch.tensor([[5.0, 5.0, 5.0, 5.0]], requires_grad=True)
    loss = giou_loss(predicted, torch.tensor([target]))
    loss.sum().backward()
    assert loss.isfinite().all() and predicted.grad is not None and predicted.grad.isfinite().all()


def test_losses_of_nothing_are_zero_and_differentiable() -> None:
    boxes = torch.zeros(0, 4, requires_grad=True)
    logits = torch.zeros(0, requires_grad=True)
    assert giou_loss(boxes, torch.zeros(0, 4)).shape == (0,)
    total = giou_loss(boxes, torch.zeros(0, 4)).sum() + centerness_loss(logits, torch.zeros(0))
    total.backward()
    assert total == 0


def test_centerness_loss_is_the_cross_entropy_summed() -> None:
    logits, targets = torch.tensor([0.5, -2.0, 3.0]), torch.tensor([0.2, 0.7, 1.0])
    shares = zip(logits.sigmoid().tolist(), targets.tolist(), strict=True)
    expected = -sum(t * math.log(p) + (1 - t) * math.log(1 - p) for p, t in shares)
    assert float(centerness_loss(logits, targets)) == pytest.approx(expected, rel=1e-5)


def test_centerness_loss_is_least_at_its_target() -> None:
    target = torch.tensor([0.3])
    at_target = centerness_loss(torch.logit(target), target)
    assert at_target < centerness_loss(torch.logit(target) + 0.1, target)
    assert at_target < centerness_loss(torch.logit(target) - 0.1, target)
