"""Which points of a batch learn which objects: assignments by geometry, and what follows from any assignment."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from detheads.targets.objects import TargetBatch

Rule = Callable[[Tensor, Sequence[int], Tensor, Tensor, Tensor, int], Tensor]
"""An assignment that needs geometry alone: called as :func:`detheads.targets.atss.assign_atss_batch` is."""


@dataclass(frozen=True)
class Geometry:
    """A rule and the points ``[N, 2]`` and strides ``[N]`` (input pixels, level after level) that it assigns."""

    rule: Rule
    points: Tensor
    points_per_level: Sequence[int]
    strides: Tensor

    def __call__(self, targets: TargetBatch) -> Tensor:
        """``[B, N]`` int64, the index of each point's object among those of the batch, -1 for none."""
        return self.rule(self.points, self.points_per_level, self.strides, targets.boxes, targets.images, len(targets))

    def cpu(self) -> "Geometry":
        """The same, with copies of the points on the CPU, where readers assign."""
        return Geometry(self.rule, self.points.cpu(), self.points_per_level, self.strides.cpu())

    def matches(self, targets: TargetBatch) -> "Matches":
        """The positive points of a batch, as :meth:`prepare` found them ahead or found now."""
        return Matches.prepared(targets.prepared) if targets.prepared else Matches.of(self(targets), targets)

    def prepare(self, targets: TargetBatch) -> dict[str, Tensor]:
        """What a reader finds ahead for :meth:`matches`."""
        return Matches.of(self(targets), targets).tensors()


@dataclass(frozen=True)
class Matches:
    """The positive points of a batch, ``P`` of them, and what each one has to learn.

    Attributes:
        images, points: ``[P]`` int64, the image and the point in it.
        objects: ``[P]`` int64, index of the object in its image.
        boxes: ``[P, 4]`` xyxy, input pixels.
        labels: ``[P]`` int64.
    """

    images: Tensor
    points: Tensor
    objects: Tensor
    boxes: Tensor
    labels: Tensor

    @classmethod
    def of(cls, matched: Tensor, targets: TargetBatch) -> "Matches":
        """What follows from an assignment as of :class:`Geometry`. Waits for the device to tell how many there are."""
        images, points = torch.nonzero(matched >= 0).unbind(dim=1)
        objects = matched[images, points]
        return cls(images, points, targets.places[objects], targets.boxes[objects], targets.labels[objects])

    @classmethod
    def prepared(cls, tensors: Mapping[str, Tensor]) -> "Matches":
        """What a reader found with :meth:`of`, from :meth:`tensors`."""
        return cls(**{field.name: tensors[field.name] for field in fields(cls)})

    def tensors(self) -> dict[str, Tensor]:
        """All attributes by name, as a head's matcher gives them."""
        return dict(vars(self))
