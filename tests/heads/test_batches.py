"""The loss of a batch: the same from lists, from one piece and from what readers prepared; no loop over images."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

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


def test_an_image_pays_in_a_batch_what_it_pays_alone(small: Head, entry: registry.Entry) -> None:
    """Sums over images, as their losses are divided by the number of positives of the batch."""
    pair = [objects(SPEC), no_objects()]
    output = _output(small, entry, 2)
    together = _losses(small, output, pair)
    doubled = _losses(small, _doubled(output), [*pair, *pair])
    for name, value in together.items():
        torch.testing.assert_close(doubled[name], value, rtol=1e-5, atol=1e-6)


def _doubled(output: HeadOutput) -> HeadOutput:
    """The same images twice."""

    def twice(value: object) -> object:
        if isinstance(value, Tensor):
            return torch.cat((value, value))
        if isinstance(value, (list, tuple)):
            return type(value)(twice(part) for part in value)
        if hasattr(value, "__dataclass_fields__"):
            return replace(value, **{name: twice(getattr(value, name)) for name in value.__dataclass_fields__})  # type: ignore[type-var]
        return value

    extras = {name: twice(value) for name, value in output.extras.items()}
    boxes, logits, quality = twice(output.boxes), twice(output.logits), twice(output.quality)
    return HeadOutput(boxes, logits, quality, extras)  # type: ignore[arg-type]
