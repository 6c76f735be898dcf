"""The loss of a batch: the same from lists, from one piece and from what readers prepared; no loop over images."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detheads.backbones.features import FeatureSpec
from detheads.bench.steps import counting
from detheads.headkit import registry
from detheads.headkit.contract import Head, HeadOutput
from detheads.targets.objects import TargetBatch, Targets
from tests.heads.worlds import SPECS, no_objects, objects, random_features, small_head, with_blocks

SPEC = SPECS["vit-square"]
WAITS = {"adaptive_query": 1, "sparse_query": 1, "optimal_transport": 1}
"""Heads whose labels depend on their predictions wait in a prepared loss: for the costs, or the number of positives."""


@pytest.fixture
def small(entry: registry.Entry) -> Head:
    return small_head(entry, SPEC).train()


def _output(head: Head, entry: registry.Entry, images: int) -> HeadOutput:
    spec: FeatureSpec = with_blocks(entry, SPEC)
    with torch.no_grad():
        return head(random_features(spec, images))


def _prepared(head: Head, targets: TargetBatch) -> TargetBatch:
    matcher = head.matcher()
    return targets if matcher is None else replace(targets, prepared=matcher(targets))


def _losses(head: Head, output: HeadOutput, targets: object) -> dict[str, Tensor]:
    with torch.no_grad():
        return head.eval().loss(output, targets)  # type: ignore[arg-type]


def test_lists_batches_and_prepared_batches_cost_the_same(small: Head, entry: registry.Entry) -> None:
    few = Targets(objects(SPEC).boxes[1:4], objects(SPEC).labels[1:4])
    listed = [objects(SPEC), no_objects(), few]
    output, batch = _output(small, entry, 3), TargetBatch.of(listed)
    wanted = _losses(small, output, listed)
    for given in (batch, _prepared(small, batch)):
        found = _losses(small, output, given)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_more_images_are_no_more_operations_and_no_more_waiting(small: Head, entry: registry.Entry) -> None:
    counts = []
    for images in (2, 5):
        output = _output(small, entry, images)
        targets = _prepared(small, TargetBatch.of([objects(SPEC)] * images))
        with counting() as counter:
            _losses(small, output, targets)
        counts.append(counter.counts["optimiser"])
    assert counts[0] == counts[1]
    assert counts[0].waits == WAITS.get(entry.name, 0)


class Visitors(TorchDispatchMode):
    """Notes operations that any tensor of the CPU takes part in."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if any(isinstance(value, Tensor) and value.is_cpu for value in tree_leaves((args, kwargs, found))):
            self.seen.append(str(func))
        return found


def test_a_step_with_prepared_labels_never_leaves_its_device(small: Head, entry: registry.Entry) -> None:
    """Forward, loss and backward on a device that has no values: nothing asks for one, and nothing is brought there."""
    if entry.name in WAITS:
        pytest.skip("its labels depend on its predictions")
    device = torch.device("meta")
    targets = _prepared(small, TargetBatch.of([objects(SPEC), no_objects()])).to(device)
    features = {name: values.to(device) for name, values in random_features(with_blocks(entry, SPEC), 2).items()}
    small.to(device)
    with Visitors() as visitors:
        losses = small.loss(small(features), targets)
        torch.stack(list(losses.values())).sum().backward()
    assert visitors.seen == []
    assert all(value.is_meta for value in losses.values())
