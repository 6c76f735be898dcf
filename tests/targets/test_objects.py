"""The objects of a batch in one piece."""

import pytest
import torch

from detheads.targets.objects import TargetBatch, Targets


def of(*counts: int) -> list[Targets]:
    generator = torch.Generator().manual_seed(sum(counts))
    return [
        Targets(torch.rand(count, 4, generator=generator), torch.randint(9, (count,), generator=generator))
        for count in counts
    ]


@pytest.mark.parametrize("counts", [(2, 0, 3), (0, 0), (1,), (0, 4)])
def test_a_batch_is_the_sequence_of_its_images(counts: tuple[int, ...]) -> None:
    targets = of(*counts)
    batch = TargetBatch.of(targets)
    assert len(batch) == len(targets)
    for found, target in zip([*batch, batch[-1]], [*targets, targets[-1]], strict=True):
        assert torch.equal(found.boxes, target.boxes)
        assert torch.equal(found.labels, target.labels)
    assert torch.equal(batch[1:2][0].boxes if len(batch) > 1 else batch[0].boxes, targets[min(1, len(batch) - 1)].boxes)


@pytest.mark.parametrize("counts", [(2, 0, 3), (0, 0), (1,)])
def test_padded_rows_hold_the_objects_and_say_which_are_none(counts: tuple[int, ...]) -> None:
    targets = of(*counts)
    boxes, labels, valid = TargetBatch.of(targets).padded()
    assert valid.sum(dim=1).tolist() == list(counts)
    assert boxes.shape[:2] == labels.shape == valid.shape == (len(counts), max(1, *counts))
    for row, target in enumerate(targets):
        assert torch.equal(boxes[row][valid[row]], target.boxes)
        assert torch.equal(labels[row][valid[row]], target.labels)
    assert not boxes[~valid].any()


def test_what_was_prepared_moves_with_the_batch() -> None:
    batch = TargetBatch.of(of(2, 1))
    moved = TargetBatch(batch.boxes, batch.labels, batch.images, batch.places, batch.counts, {"points": batch.images})
    there = moved.to(torch.device("meta"))
    assert {values.device.type for values in (there.boxes, there.labels, there.images, there.prepared["points"])} == {
        "meta"
    }
