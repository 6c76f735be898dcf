"""The decoding and the loss that point heads share, against hand-made cases and a loop written from the papers."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from detheads.headkit.contract import HeadOutput
from detheads.headkit.dense import PointHead, fcos_ranges
from detheads.targets.atss import assign_atss
from detheads.targets.fcos import assign_fcos
from detheads.targets.objects import Targets
from tests.heads.worlds import no_objects

STRIDES = [8.0, 16.0, 32.0, 64.0]
GRIDS = [(8, 16), (4, 8), (2, 4), (1, 2)]
COUNT = 170
BOXES = torch.tensor([[3.0, 5.0, 57.0, 60.0], [70.0, 9.0, 121.0, 52.0]])


class Points(PointHead):
    """A point head without a network, for 128x64 pixels."""

    def __init__(self, assigner: str = "fcos", strides: Sequence[float] = STRIDES) -> None:
        super().__init__(64, 128, strides, assigner)  # type: ignore[arg-type]

    def forward(self, features: object) -> HeadOutput:
        """Without a network every map is zero."""
        return self.decode(_maps(3, 0.0), _maps(4, 0.0), _maps(1, 0.0))


def _maps(channels: int, values: list[float] | float = 0.0) -> list[Tensor]:
    fill = torch.tensor(values).expand(channels)
    return [fill.view(1, channels, 1, 1).expand(1, channels, *grid) for grid in GRIDS]


def test_points_are_cell_centres_level_after_level() -> None:
    head = Points()
    assert head.points.shape == (COUNT, 2)
    assert head.points[0].tolist() == [4, 4]
    assert head.points[1].tolist() == [12, 4]
    assert head.points[16].tolist() == [4, 12]
    assert head.points[128].tolist() == [8, 8]
    assert head.points[-1].tolist() == [96, 32]
    assert head.strides.tolist() == [8] * 128 + [16] * 32 + [32] * 8 + [64] * 2


def test_points_move_with_the_head_and_are_no_weights() -> None:
    head = Points(strides=[8, 16, 32, 64])
    assert head.state_dict().keys() == {"level_scales"}
    assert (head.points.dtype, head.strides.dtype) == (torch.float32, torch.float32)
    assert head.to("meta").points.is_meta and head.strides.is_meta


def test_known_distances_give_known_boxes() -> None:
    head = Points()
    with torch.no_grad():
        head.level_scales.copy_(torch.tensor([1.0, 1.0, 1.0, 2.0]))
    logs = [math.log(1.0), math.log(2.0), math.log(3.0), math.log(0.5)]
    boxes = head.decode(_maps(1), _maps(4, logs), _maps(1)).boxes[0]
    # At (4, 4), stride 8: left 8, top 16, right 24, bottom 4.
    assert boxes[0].tolist() == pytest.approx([-4, -12, 28, 8], abs=1e-4)
    # At (96, 32), stride 64 and scale 2: the logarithms double, so 64, 256, 576, 16.
    assert boxes[-1].tolist() == pytest.approx([32, -224, 672, 48], abs=1e-3)


def test_the_order_of_maps_is_the_order_of_points() -> None:
    head = Points()
    parts = torch.arange(float(COUNT)).split(head.points_per_level)
    logits = [part.view(1, 1, *grid) for part, grid in zip(parts, GRIDS, strict=True)]
    output = head.decode(logits, _maps(4), logits)
    assert output.logits[0, :, 0].tolist() == list(range(COUNT))
    assert output.quality is not None
    assert output.quality[0].tolist() == list(range(COUNT))


def test_distances_are_bounded_before_the_exponential() -> None:
    boxes = Points().decode(_maps(1), _maps(4, 1e30), _maps(1)).boxes
    assert boxes.abs().max() <= math.exp(8) * 64 + 128
    assert torch.isfinite(boxes).all()


def test_ranges_meet_at_eight_strides_and_cover_everything() -> None:
    assert fcos_ranges([8, 16, 32]) == [(0.0, 64.0), (64.0, 128.0), (128.0, math.inf)]


def test_points_are_matched_by_the_chosen_assigner() -> None:
    by_iou, by_range = Points("atss"), Points("fcos")
    grid = by_iou.points, by_iou.points_per_level, by_iou.strides, BOXES
    assert torch.equal(by_iou.assign(BOXES).matched, assign_atss(*grid))
    expected = assign_fcos(*grid, level_ranges=[(0, 64), (64, 128), (128, 256), (256, math.inf)])
    assert torch.equal(by_range.assign(BOXES).matched, expected)
    assert not torch.equal(expected, assign_atss(*grid))


def test_a_single_positive_point_off_the_centre_pays_its_whole_loss() -> None:
    head, target = Points(), Targets(torch.tensor([[2.0, 2.0, 8.0, 8.0]]), torch.tensor([1]))
    assert torch.nonzero(head.assign(target.boxes).matched == 0).flatten().tolist() == [0]
    boxes = torch.tensor([0.0, 0.0, 6.0, 6.0]).repeat(1, COUNT, 1)
    losses = head.loss(HeadOutput(boxes, torch.zeros(1, COUNT, 3), torch.zeros(1, COUNT), {}), [target])
    assert float(losses["box"]) == pytest.approx(1 - _giou([0, 0, 6, 6], [2, 2, 8, 8]))
    assert float(losses["centerness"]) == pytest.approx(math.log(2))
    assert float(losses["classification"]) == pytest.approx((0.25 + (3 * COUNT - 1) * 0.75) / 4 * math.log(2))


@pytest.mark.parametrize("assigner", ["fcos", "atss"])
def test_perfect_predictions_cost_next_to_nothing(assigner: str) -> None:
    head = Points(assigner)
    target = Targets(BOXES, torch.tensor([1, 0]))
    assignment = head.assign(target.boxes)
    assert set(assignment.objects.tolist()) == {0, 1}
    logits, boxes = torch.full((1, COUNT, 3), -40.0), torch.zeros(1, COUNT, 4)
    logits[0, assignment.positive, target.labels[assignment.objects]] = 40.0
    boxes[0, assignment.positive] = target.boxes[assignment.objects]
    quality = torch.tensor([[_centerness(*point, *box) for point, box in _pairs(head, boxes[0])]])
    losses = head.loss(HeadOutput(boxes, logits, torch.logit(quality, eps=1e-6), {}), [target])
    assert float(losses["classification"]) == pytest.approx(0, abs=1e-6)
    assert float(losses["box"]) == pytest.approx(0, abs=1e-5)
    # Cross-entropy with soft targets ends at their entropy; it grows as soon as the prediction leaves the target.
    worse = head.loss(HeadOutput(boxes, logits, torch.logit(quality, eps=1e-6) + 1, {}), [target])
    assert float(worse["centerness"]) > float(losses["centerness"]) + 0.01


@pytest.mark.parametrize("assigner", ["fcos", "atss"])
def test_loss_terms_equal_a_loop_over_images_points_and_classes(assigner: str) -> None:
    head = Points(assigner)
    generator = torch.Generator().manual_seed(1)
    centres = head.points + torch.randn(2, COUNT, 2, generator=generator)
    sizes = 10 + 40 * torch.rand(2, COUNT, 2, generator=generator)
    boxes = torch.cat((centres - sizes / 2, centres + sizes / 2), dim=2)
    logits, quality = torch.randn(2, COUNT, 3, generator=generator), torch.randn(2, COUNT, generator=generator)
    first = Targets(BOXES, torch.tensor([2, 0]))
    losses = head.loss(HeadOutput(boxes, logits, quality, {}), [first, no_objects()])

    matched = [head.assign(first.boxes).matched.tolist(), [-1] * COUNT]
    classification = centre = box_sum = weight = 0.0
    positives = 0
    for image in range(2):
        for point in range(COUNT):
            thing = matched[image][point]
            for label in range(3):
                p = 1 / (1 + math.exp(-float(logits[image, point, label])))
                if thing >= 0 and label == int(first.labels[thing]):
                    classification -= 0.25 * (1 - p) ** 2 * math.log(p)
                else:
                    classification -= 0.75 * p**2 * math.log(1 - p)
            if thing < 0:
                continue
            positives += 1
            wanted = first.boxes[thing].tolist()
            target = _centerness(*head.points[point].tolist(), *wanted)
            q = 1 / (1 + math.exp(-float(quality[image, point])))
            centre -= target * math.log(q) + (1 - target) * math.log(1 - q)
            box_sum += target * (1 - _giou(boxes[image, point].tolist(), wanted))
            weight += target
    assert positives >= 4
    assert float(losses["classification"]) == pytest.approx(classification / positives, rel=1e-5)
    assert float(losses["centerness"]) == pytest.approx(centre / positives, rel=1e-5)
    assert float(losses["box"]) == pytest.approx(box_sum / weight, rel=1e-5)
    assert set(losses) == {"classification", "box", "centerness"}


def _pairs(head: Points, boxes: Tensor) -> list[tuple[list[float], list[float]]]:
    return list(zip(head.points.tolist(), boxes.tolist(), strict=True))


def _centerness(x: float, y: float, x1: float, y1: float, x2: float, y2: float) -> float:
    """0 where the point is outside."""
    left, top, right, bottom = x - x1, y - y1, x2 - x, y2 - y
    if min(left, top, right, bottom) <= 0:
        return 0.0
    return math.sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom))


def _giou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return width * height / union - (hull - union) / hull
