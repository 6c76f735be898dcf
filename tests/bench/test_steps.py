"""What counts as an operation and as waiting for a device, and what a step is found to take."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from detheads.bench.steps import bench_step, counting

X = torch.tensor([3.0, -1.0, 2.0])
NARROW = {"width": "8", "tower_blocks": "1"}


@pytest.mark.parametrize(
    ("function", "operations", "waits"),
    [
        (lambda: X + X, 1, 0),
        (lambda: (X * 2).sum(), 2, 0),
        (lambda: X[torch.tensor([0, 2])], 1, 0),
        (lambda: torch.where(X > 0, X, torch.zeros_like(X)), 3, 0),
        (lambda: float(X.sum()), 2, 1),
        (lambda: X[X > 0], 2, 1),
        (lambda: X.clone().index_put_((X > 0,), X[0]), 4, 1),
        (lambda: torch.nonzero(X), 1, 1),
        (lambda: torch.repeat_interleave(X, torch.ones(3, dtype=torch.int64)), 3, 1),
        (lambda: X.cpu(), 0, 1),
        (lambda: X.tolist(), 0, 1),
        (lambda: torch.zeros(3, device="cpu"), 1, 0),
        (lambda: torch.tensor([1.0], device="cpu"), 0, 1),
    ],
)
def test_operations_and_those_that_wait_are_counted(function: Callable[[], Any], operations: int, waits: int) -> None:
    with counting() as counter:
        function()
    assert counter.counts["optimiser"].waits == waits
    assert operations <= counter.counts["optimiser"].operations <= operations + 3


def test_a_step_is_counted_by_its_parts_and_assignment_ahead_of_it_is_none_of_them() -> None:
    ahead, within = (bench_step("slim_fcos", NARROW, 2, 3, 4, ahead=ahead) for ahead in (True, False))
    assert ahead.ahead and not within.ahead
    assert all(part.operations > 20 for part in ahead.parts.values())
    assert ahead.total.operations == sum(part.operations for part in ahead.parts.values())
    assert ahead.total.waits == 0
    assert within.parts["loss"].waits == 1  # for the number of positive points
    assert within.parts["loss"].operations > ahead.parts["loss"].operations + 30
    assert all(within.parts[part] == ahead.parts[part] for part in ("forward", "backward", "optimiser"))


def test_a_head_that_waits_in_its_loss_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from detheads.heads.slim_fcos import SlimFCOS

    usual = SlimFCOS.loss

    def slow(self: SlimFCOS, *arguments: Any) -> dict[str, Tensor]:
        losses = usual(self, *arguments)
        return {name: value * (1 + 0 * float(value.detach())) for name, value in losses.items()}

    monkeypatch.setattr(SlimFCOS, "loss", slow)
    found = bench_step("slim_fcos", NARROW, 2, 3, 4)
    assert found.parts["loss"].waits == 3
