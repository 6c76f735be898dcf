"""What boxes say of depth, and what boxes hear of it."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detheads.backbones.features import DEPTH, FeatureLayer, FeatureSpec
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.heads.depth_fusion import (
    ORDER_MARGIN,
    DepthFusion,
    imitation_loss,
    order_loss,
    smoothness_loss,
    with_edges,
)
from detheads.targets.objects import TargetBatch, Targets
from tests.heads.worlds import SPECS, no_objects, random_features

SPEC = SPECS["vit-square"]
WITH_DEPTH = replace(SPEC, layers=(*SPEC.layers, FeatureLayer(DEPTH, 1, 16)))
NEAR, FAR = [16.0, 16.0, 64.0, 112.0], [80.0, 32.0, 112.0, 80.0]  # 96 and 48 pixels tall
MARGIN = ORDER_MARGIN * math.log(2)


def _head(spec: FeatureSpec = SPEC, **options: object) -> DepthFusion:
    torch.manual_seed(0)
    head = registry.build("depth_fusion", spec, 5, {"width": 16, "tower_blocks": 1} | options)
    assert isinstance(head, DepthFusion)
    return head


def _scene(difference: float) -> Tensor:
    """Log inverse depth of 8x8 cells; that of the taller object is larger by ``difference``."""
    depth = torch.full((1, 8, 8), -1.0)
    depth[:, 1:7, 1:4] += difference
    return depth


def _owners(boxes: Tensor) -> Tensor:
    """The owners of the cells, ``[1, 8, 8]``, of a picture with these objects."""
    targets = TargetBatch.of([Targets(boxes, torch.zeros(len(boxes), dtype=torch.int64))])
    return _head().owners()(targets).view(1, 8, 8)


@pytest.mark.parametrize(("difference", "expected"), [(MARGIN, 0), (2 * MARGIN, 0), (0, MARGIN), (-1, MARGIN + 1)])
def test_the_taller_of_a_class_is_nearer_by_the_margin_or_it_costs_the_rest(difference: float, expected: float) -> None:
    for boxes in ([NEAR, FAR], [FAR, NEAR]):
        target = Targets(torch.tensor(boxes), torch.tensor([3, 3]))
        assert float(order_loss(_scene(difference), TargetBatch.of([target]), 16.0)) == pytest.approx(
            expected, abs=1e-6
        )


def test_objects_of_different_classes_or_images_are_not_compared() -> None:
    scene = _scene(-1.0).expand(2, -1, -1)
    apart = [Targets(torch.tensor([box]), torch.tensor([3])) for box in (NEAR, FAR)]
    mixed = Targets(torch.tensor([NEAR, FAR]), torch.tensor([3, 4]))
    assert float(order_loss(scene, TargetBatch.of(apart), 16.0)) == 0
    assert float(order_loss(scene, TargetBatch.of([mixed, no_objects()]), 16.0)) == 0


def test_an_objects_depth_is_the_mean_over_its_box_by_covered_area() -> None:
    """Against pixels: 16 of them a cell, averaged over boxes on whole pixels; far and near differ in height only."""
    depth = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[5.0, 9.0, 70.0, 111.0], [33.0, 40.0, 38.0, 47.0]])
    pixels = depth[0].repeat_interleave(16, dim=0).repeat_interleave(16, dim=1)
    near, far = (float(pixels[int(y1) : int(y2), int(x1) : int(x2)].mean()) for x1, y1, x2, y2 in boxes.tolist())
    expected = ORDER_MARGIN * math.log(102 / 7) - (near - far)
    assert expected > 0
    found = order_loss(depth, TargetBatch.of([Targets(boxes, torch.tensor([0, 0]))]), 16.0)
    assert float(found) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_step_costs_nothing_at_the_border_of_a_box_and_something_in_its_middle(transposed: bool) -> None:
    box = torch.tensor([[32.0, 16.0, 96.0, 80.0]])  # columns 2-5, rows 1-4
    owners = _owners(box[:, [1, 0, 3, 2]] if transposed else box)
    columns = torch.arange(8).expand(1, 8, 8)
    if transposed:
        columns = columns.transpose(1, 2)
    for border in (2, 6):
        assert float(smoothness_loss((columns >= border).float(), owners)) == 0
    # Four of the 2 * 4 * 3 pairs of neighbours within the box lie across a step of 3.
    assert float(smoothness_loss(3 * (columns >= 4).float(), owners)) == pytest.approx(3 * 4 / 24)


def test_an_object_before_another_may_stand_out_from_it() -> None:
    inner, outer = [32.0, 32.0, 64.0, 64.0], [0.0, 0.0, 128.0, 128.0]
    owners = _owners(torch.tensor([outer, inner]))
    depth = torch.zeros(1, 8, 8)
    depth[:, 2:4, 2:4] = 5.0
    assert float(smoothness_loss(depth, owners)) == 0
    assert float(smoothness_loss(depth, torch.zeros_like(owners))) > 0


def test_edges_of_a_slope_are_its_gradient() -> None:
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(9.0), indexing="ij")
    depth, dx, dy, magnitude = with_edges((0.3 * x - 0.4 * y)[None, None])[0].unbind()
    assert torch.equal(depth, 0.3 * x - 0.4 * y)
    inner = slice(1, -1)
    torch.testing.assert_close(dx[inner, inner], torch.full((4, 7), 0.3))
    torch.testing.assert_close(dy[inner, inner], torch.full((4, 7), -0.4))
    torch.testing.assert_close(magnitude[inner, inner], torch.full((4, 7), 0.5))


def test_depth_changes_boxes_but_not_classes() -> None:
    head, features = _head(), random_features(SPEC, 1)
    with torch.no_grad():
        before = head(features)
        assert head.depth is not None
        head.depth[1].weight.mul_(50)
        after = head(features)
    assert not torch.allclose(after.boxes, before.boxes, atol=1e-3)
    assert torch.equal(after.logits, before.logits)
    inverse = after.extras["log_inverse_depth"].exp()
    assert inverse.shape == (1, 8, 8)
    assert ((inverse > 0) & (inverse < 1)).all()


def test_the_depth_map_learns_the_order_of_sizes_and_flat_objects() -> None:
    """From a scene without depth labels; the detection losses play no part."""
    head, features = _head().train(), random_features(SPEC, 1)
    target = Targets(torch.tensor([NEAR, FAR]), torch.tensor([3, 3]))
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-2)
    history = []
    for _ in range(40):
        losses = head.loss(head(features), [target])
        history.append(tuple(float(losses[name].detach()) for name in ("depth_order", "depth_smoothness")))
        optimiser.zero_grad()
        (losses["depth_order"] + losses["depth_smoothness"]).backward()
        optimiser.step()
    assert history[0][0] > 0.1
    assert history[-1][0] < 0.02
    assert history[-1][1] < 0.02


def _maps() -> tuple[Tensor, Tensor]:
    """Two inverse depth maps ``[2, 6, 7]``, apart from each other by no scale and shift."""
    generator = torch.Generator().manual_seed(4)
    first, second = (0.2 + 0.6 * torch.rand(2, 6, 7, generator=generator) for _ in range(2))
    return first, second


def test_a_map_that_differs_in_scale_and_shift_imitates_perfectly() -> None:
    cached, other = _maps()
    scale, shift = torch.tensor([0.7, 0.3]).view(2, 1, 1), torch.tensor([0.1, -0.02]).view(2, 1, 1)
    assert [float(term) for term in imitation_loss(scale * cached + shift, cached)] == pytest.approx([0, 0], abs=1e-5)
    assert all(float(term) > 0.5 for term in imitation_loss(other, cached))
    assert all(float(term) > 1 for term in imitation_loss(1 - cached, cached))  # near is not far


def test_what_a_map_costs_is_the_mean_difference_of_standardised_maps() -> None:
    predicted, cached = (values[:1].double() for values in _maps())
    standard = [(x - x.mean()) / (x - x.mean()).abs().mean() for x in (predicted[0], cached[0])]
    gap = standard[0] - standard[1]
    steps = torch.cat(((gap[1:] - gap[:-1]).flatten(), (gap[:, 1:] - gap[:, :-1]).flatten()))
    found = [float(term) for term in imitation_loss(predicted, cached)]
    assert found == pytest.approx([float(gap.abs().mean()), float(steps.abs().mean())])


def test_unknown_cells_cost_nothing() -> None:
    predicted, cached = _maps()
    cached[:, :, 4:] = 0.0
    torch.testing.assert_close(imitation_loss(predicted, cached), imitation_loss(predicted[..., :4], cached[..., :4]))
    assert [float(term) for term in imitation_loss(predicted, torch.zeros_like(cached))] == [0, 0]


def test_a_cached_map_is_learned_and_is_no_input() -> None:
    head, features = _head(WITH_DEPTH).train(), random_features(SPEC, 1)
    cached = torch.full((1, 1, 8, 8), 0.2)
    cached[..., 2:6, 3:7] = 0.9
    optimiser, targets = torch.optim.Adam(head.parameters(), lr=1e-2), [no_objects()]
    assert head.teacher == "cached"
    history = []
    for _ in range(40):
        losses = head.loss(head({**features, DEPTH: cached}), targets)
        assert losses.keys() == {"classification", "box", "centerness", "depth", "depth_edges"}
        history.append(float((losses["depth"] + losses["depth_edges"]).detach()))
        optimiser.zero_grad()
        (losses["depth"] + losses["depth_edges"]).backward()
        optimiser.step()
    assert history[-1] < 0.2 * history[0]
    with torch.no_grad():
        taught, alone = head({**features, DEPTH: cached}), head(features)
    assert torch.equal(taught.boxes, alone.boxes)
    inverse = alone.extras["log_inverse_depth"][0].exp()
    assert inverse[2:6, 3:7].mean() > inverse[:, 0].mean()


@pytest.mark.parametrize(
    ("spec", "teacher", "found"),
    [(SPEC, "auto", "boxes"), (WITH_DEPTH, "auto", "cached"), (WITH_DEPTH, "boxes", "boxes"), (SPEC, "none", "none")],
)
def test_the_head_says_what_its_map_is(spec: FeatureSpec, teacher: str, found: str) -> None:
    head = _head(spec, teacher=teacher)
    assert head.teacher == found
    assert {"boxes": "pseudo-depth", "cached": "learns depth from", "none": "taught no depth"}[found] in head.remark


def test_depth_that_is_not_in_the_cache_cannot_teach() -> None:
    with pytest.raises(UserError, match=r"teacher=cached learns from depth maps, which these features \(last\) do not"):
        _head(teacher="cached")


@pytest.mark.parametrize("change", [lambda head: head.depth[1].weight, lambda head: head.depth[1].bias])
def test_a_map_that_is_learned_aside_changes_no_box(change: Callable[[DepthFusion], Tensor]) -> None:
    head, features = _head(fused=False), random_features(SPEC, 1)
    with torch.no_grad():
        before = head(features)
        change(head).add_(1.0)
        after = head(features)
    assert torch.equal(before.boxes, after.boxes)
    assert not torch.equal(before.extras["log_inverse_depth"], after.extras["log_inverse_depth"])
