"""The checks notice a head that breaks its promise, and cases come from the smallest on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from detheads.headkit import registry
from detheads.headkit.checks import CHECKS, CLASSES, Case, cases, fault_of
from detheads.headkit.contract import HeadOutput
from detheads.heads.slim_fcos import SlimFCOS
from detheads.targets.objects import Targets

NARROW = {"width": 8, "tower_blocks": 1}
ODD = torch.Generator().manual_seed(0)


class Altered(SlimFCOS):
    """Does something to its output."""

    alter: ClassVar[Callable[[HeadOutput], HeadOutput]]

    def forward(self, features: Mapping[str, Tensor]) -> HeadOutput:
        return type(self).alter(super().forward(features))


class Lost(SlimFCOS):
    """Has no loss for images without objects."""

    def loss(self, output: HeadOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        factor = 1.0 if any(len(target.boxes) for target in targets) else torch.nan
        return {name: loss * factor for name, loss in super().loss(output, targets).items()}


FAULTS: dict[str, Callable[[HeadOutput], HeadOutput]] = {
    "boxes, logits and quality have the right shapes": lambda o: replace(o, logits=o.logits[..., :1]),
    "the output is finite and no box is inside out, whatever the features": lambda o: replace(o, boxes=o.boxes.flip(2)),
    "an image gives the same alone as in a batch": lambda o: replace(o, logits=o.logits - o.logits.mean(dim=0)),
    "the image decides the output": lambda o: replace(o, boxes=o.boxes * 0),
    "gradients reach every parameter": lambda o: replace(o, logits=o.logits.detach()),
    "a few steps on one batch lower its loss": lambda o: replace(o, logits=o.logits + 9 * torch.rand(1, generator=ODD)),
    "one seed gives one training": lambda o: replace(o, logits=o.logits + torch.rand(1, generator=ODD)),
}


@pytest.fixture
def case() -> Iterator[Callable[[type[SlimFCOS]], Case]]:
    """The smallest case of a class that takes the place of ``slim_fcos`` for a while."""
    kept = registry.entry("slim_fcos")

    def make(head: type[SlimFCOS]) -> Case:
        found = registry.Entry("slim_fcos", head, kept.config)
        registry._ENTRIES["slim_fcos"] = found
        return replace(next(cases(found, NARROW)), classes=3)

    yield make
    registry._ENTRIES["slim_fcos"] = kept


@pytest.mark.parametrize("promise", FAULTS)
def test_a_broken_promise_is_noticed(promise: str, case: Callable[[type[SlimFCOS]], Case]) -> None:
    assert fault_of(CHECKS[promise], case(SlimFCOS)) is None
    broken = type("Broken", (Altered,), {"alter": staticmethod(FAULTS[promise])})
    assert fault_of(CHECKS[promise], case(broken)) is not None


def test_the_number_of_objects_is_named(case: Callable[[type[SlimFCOS]], Case]) -> None:
    fault = fault_of(CHECKS["losses and gradients are finite with no, one and many objects"], case(Lost))
    assert fault == "the loss 'classification' is nan for images with 0 objects"


def test_cases_come_from_the_smallest_on() -> None:
    found = list(cases(registry.entry("slim_fcos"), NARROW))
    assert [case.classes for case in found[: len(CLASSES)]] == list(CLASSES)
    areas = [case.spec.height * case.spec.width for case in found]
    assert areas == sorted(areas)
    transformers = list(cases(registry.entry("hook_fcos"), {}))
    assert {len(case.spec.main) for case in transformers} == {1}
    assert all("block2" in case.spec.names for case in transformers)
