import math

import torch

from detheads.targets.assignment import Assignment, centerness_targets, ltrb_targets


def test_positives_and_their_objects_are_read_off_the_assignment() -> None:
    assignment = Assignment(torch.tensor([-1, 2, 0, -1, 2]))
    assert assignment.positive.tolist() == [1, 2, 4]
    assert assignment.objects.tolist() == [2, 0, 2]


def test_ltrb_targets_are_distances_to_the_edges_in_order() -> None:
    ltrb = ltrb_targets(torch.tensor([[30.0, 40.0]]), torch.tensor([[10.0, 10.0, 100.0, 200.0]]))
    assert ltrb.tolist() == [[20.0, 30.0, 70.0, 160.0]]


def test_a_point_outside_its_box_has_a_negative_distance() -> None:
    ltrb = ltrb_targets(torch.tensor([[5.0, 40.0]]), torch.tensor([[10.0, 10.0, 100.0, 200.0]]))
    assert (ltrb < 0).tolist() == [[True, False, False, False]]


def test_centerness_is_one_at_the_centre_and_follows_the_formula_elsewhere() -> None:
    ltrb = torch.tensor([[5.0, 3.0, 5.0, 3.0], [2.0, 3.0, 8.0, 12.0]])
    expected = torch.tensor([1.0, math.sqrt(2 / 8 * 3 / 12)])
    torch.testing.assert_close(centerness_targets(ltrb), expected)


def test_targets_of_no_positive_point_are_empty() -> None:
    ltrb = ltrb_targets(torch.zeros(0, 2), torch.zeros(0, 4))
    assert ltrb.shape == (0, 4)
    assert centerness_targets(ltrb).shape == (0,)
