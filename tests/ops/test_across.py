"""Counts of one process: what two share is tested on every head."""

import pytest
import torch

from detheads.ops.across import mean_across_processes, mean_number, total_across_processes


@pytest.mark.parametrize(
    ("count", "least", "expected"), [(0, 1.0, 1.0), (3, 1.0, 3.0), (0.5, 0.25, 0.5), (0, 0.0, 0.0)]
)
def test_a_single_process_divides_by_its_own_count(count: float, least: float, expected: float) -> None:
    assert float(mean_across_processes(torch.tensor(count), least)) == expected


@pytest.mark.parametrize(("number", "expected"), [(0, 1.0), (1, 1.0), (40, 40.0)])
def test_a_number_counts_as_one_at_least_and_lies_where_the_others_do(number: int, expected: float) -> None:
    assert float(mean_number(number, like=torch.zeros(3))) == expected
    assert mean_number(number, like=torch.zeros(3, device="meta")).is_meta


def test_a_total_has_no_gradient() -> None:
    values = torch.ones(2, 3, requires_grad=True)
    total = total_across_processes(values)
    assert torch.equal(total, torch.ones(2, 3)) and not total.requires_grad
