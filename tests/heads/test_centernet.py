"""What is particular to objects as points: peaks, and what the heatmaps and boxes learn."""

import numpy as np
import torch
from scipy.ndimage import maximum_filter

from detheads.evaluation.predict import default_thresholds
from detheads.headkit import registry
from detheads.headkit.contract import HeadOutput
from detheads.headkit.peaks import FLOOR, peaks
from detheads.heads.centernet import CenterNet
from detheads.targets.objects import Targets
from tests.heads.worlds import SPECS, random_features

SPEC = SPECS["vit-wide"]  # 80 x 208 pixels: 10 x 26 points 8 pixels apart


def _head(**options: object) -> CenterNet:
    torch.manual_seed(0)
    head = registry.build("centernet", SPEC, 3, {"width": 16, "tower_blocks": 1} | options).eval()
    assert isinstance(head, CenterNet)
    return head


def test_only_the_highest_of_nine_neighbours_keeps_its_logit() -> None:
    heatmaps = torch.randn(2, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    highest = maximum_filter(heatmaps.numpy(), (1, 1, 3, 3), mode="constant", cval=-np.inf)
    expected = np.where(heatmaps.numpy() == highest, heatmaps.numpy(), FLOOR)
    np.testing.assert_array_equal(peaks(heatmaps).numpy(), expected)


def test_no_two_neighbours_are_detected_as_one_class() -> None:
    with torch.no_grad():
        output = _head()(random_features(SPEC, 2))
    found = (output.logits > FLOOR).view(2, 10, 26, 3)
    assert found.any()
    assert not (found[:, :, 1:] & found[:, :, :-1]).any() and not (found[:, 1:] & found[:, :-1]).any()


def test_the_box_of_a_point_is_centred_in_its_cell() -> None:
    with torch.no_grad():
        boxes = _head()(random_features(SPEC, 1, scale=30.0)).boxes[0]
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    row, column = torch.meshgrid(torch.arange(10), torch.arange(26), indexing="ij")
    cells = torch.stack((column, row), dim=2).view(-1, 2)
    assert (centers >= cells * 8 - 1e-3).all() and (centers <= (cells + 1) * 8 + 1e-3).all()


def test_the_right_heatmaps_and_boxes_cost_nothing() -> None:
    head = _head()
    target = Targets(torch.tensor([[40.0, 8.0, 60.0, 50.0], [150.0, 30.0, 170.0, 44.0]]), torch.tensor([2, 0]))
    cells = [(3, 6, 2), (4, 20, 0)]  # rows and columns of their centres (50, 29) and (160, 37), and classes

    def loss_of(cells: list[tuple[int, int, int]]) -> float:
        heatmaps, boxes = torch.full((1, 3, 10, 26), -50.0), torch.zeros(1, 260, 4)
        for (row, column, label), box in zip(cells, target.boxes, strict=True):
            heatmaps[0, label, row, column] = 50.0
            boxes[0, row * 26 + column] = box
        output = HeadOutput(boxes, heatmaps.flatten(2).transpose(1, 2), None, {"heatmaps": [heatmaps]})
        return float(torch.stack(list(head.loss(output, [target]).values())).sum())

    assert loss_of(cells) < 1e-5
    assert loss_of([(3, 6, 1), (4, 20, 0)]) > 10  # another class
    assert loss_of([(3, 7, 2), (4, 20, 0)]) > 10  # another place


def test_without_peaks_all_points_count_and_suppression_follows() -> None:
    head, every = _head(), _head(peaks=False)
    with torch.no_grad():
        output, all_points = head(random_features(SPEC, 2)), every(random_features(SPEC, 2))
    assert (default_thresholds(head).nms_iou, default_thresholds(every).nms_iou) == (1.0, 0.5)
    assert torch.equal(all_points.boxes, output.boxes)
    assert torch.equal(all_points.logits, output.extras["heatmaps"][0].flatten(2).transpose(1, 2))


def test_on_several_grids_an_object_is_found_by_the_one_of_its_size_alone() -> None:
    """The right points of the right grids cost nothing, and those of another grid do."""
    head = _head(grids=3)
    assert head.level_strides == (8, 16, 32)
    target = Targets(torch.tensor([[40.0, 8.0, 60.0, 50.0], [4.0, 0.0, 204.0, 60.0]]), torch.tensor([2, 0]))
    shapes = [(10, 26), (5, 13), (3, 7)]
    right = [(0, 3, 6), (1, 1, 6)]  # grid, row and column: sides of up to 128 pixels, and up to 256

    def loss_of(cells: list[tuple[int, int, int]]) -> float:
        heatmaps = [torch.full((1, 3, rows, columns), -50.0) for rows, columns in shapes]
        boxes = [torch.zeros(1, rows, columns, 4) for rows, columns in shapes]
        for (grid, row, column), label, box in zip(cells, (2, 0), target.boxes, strict=True):
            heatmaps[grid][0, label, row, column] = 50.0
            boxes[grid][0, row, column] = box
        flat = torch.cat([level.flatten(1, 2) for level in boxes], dim=1)
        output = HeadOutput(flat, torch.zeros(1, flat.shape[1], 3), None, {"heatmaps": heatmaps})
        return float(torch.stack(list(head.loss(output, [target]).values())).sum())

    assert loss_of(right) < 1e-5
    assert loss_of([(1, 1, 3), (1, 1, 6)]) > 10  # the smaller one a grid too coarse
    assert loss_of([(0, 3, 6), (2, 0, 3)]) > 10  # the larger one too
