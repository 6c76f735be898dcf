"""What a head has to find: the objects of one image, and those of a batch in one piece."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import torch
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """The objects of one image: ``boxes`` ``[M, 4]`` xyxy in input pixels, ``labels`` ``[M]`` int64. ``M`` may be 0."""

    boxes: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Targets":
        return Targets(self.boxes.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class TargetBatch(Sequence[Targets]):
    """The objects of ``B`` images behind one another, ``T`` in all: a sequence of :class:`Targets` in one piece.

    A batch is made on the CPU by :meth:`of` and moved as a whole; nothing here waits for a device.

    Attributes:
        boxes: ``[T, 4]`` xyxy, input pixels; ``T`` may be 0.
        labels: ``[T]`` int64.
        images: ``[T]`` int64, the image of each object, ascending.
        places: ``[T]`` int64, which object of its image it is.
        counts: how many each image has.
        prepared: what the head's :meth:`~detheads.headkit.contract.Head.matcher` said of them; empty without one.
    """

    boxes: Tensor
    labels: Tensor
    images: Tensor
    places: Tensor
    counts: tuple[int, ...]
    prepared: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, targets: Iterable[Targets]) -> "TargetBatch":
        """The objects of some images, at least one, on their device; a batch is itself."""
        if isinstance(targets, TargetBatch):
            return targets
        listed = list(targets)
        counts = tuple(len(target.labels) for target in listed)
        boxes = torch.cat([target.boxes for target in listed])
        images = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        places = torch.cat([torch.arange(count) for count in counts])
        labels = torch.cat([target.labels for target in listed])
        return cls(boxes, labels, images.to(boxes.device), places.to(boxes.device), counts)

    def padded(self) -> tuple[Tensor, Tensor, Tensor]:
        """``boxes`` ``[B, M, 4]``, ``labels`` ``[B, M]`` and ``valid`` ``[B, M]`` bool; zeros where ``valid`` is False.

        ``M`` is the largest number of objects in an image, at least 1.
        """
        shape = len(self.counts), max(1, *self.counts)
        boxes, labels = self.boxes.new_zeros(*shape, 4), self.labels.new_zeros(shape)
        valid = torch.zeros(shape, dtype=torch.bool, device=self.boxes.device)
        where = self.images, self.places
        # A tensor on the device, as a number would be copied there while everything waits.
        true = torch.ones_like(self.labels, dtype=torch.bool)
        return boxes.index_put(where, self.boxes), labels.index_put(where, self.labels), valid.index_put(where, true)

    def to(self, device: torch.device) -> "TargetBatch":
        """The same on a device; without waiting where it is pinned."""

        def moved(values: Tensor) -> Tensor:
            return values.to(device, non_blocking=True)

        return self._mapped(moved)

    def pinned(self) -> "TargetBatch":
        """The same in memory that a GPU copies from by itself."""
        return self._mapped(Tensor.pin_memory)

    def __len__(self) -> int:
        return len(self.counts)

    @overload
    def __getitem__(self, index: int) -> Targets: ...

    @overload
    def __getitem__(self, index: slice) -> list[Targets]: ...

    def __getitem__(self, index: int | slice) -> Targets | list[Targets]:
        if isinstance(index, slice):
            return [self[position] for position in range(len(self))[index]]
        index = range(len(self))[index]
        start = sum(self.counts[:index])
        taken = slice(start, start + self.counts[index])
        return Targets(self.boxes[taken], self.labels[taken])

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> "TargetBatch":
        return replace(
            self,
            boxes=function(self.boxes),
            labels=function(self.labels),
            images=function(self.images),
            places=function(self.places),
            prepared={name: function(values) for name, values in self.prepared.items()},
        )
