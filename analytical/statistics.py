"""The pass over a feature cache: sums for the discriminants and for every ridge regression of the first stage.

The state has a fixed size whatever the number of images, is saved now and then (a killed pass goes on from there), and
adds up: parts of a cache, taken by several processes or machines, merge into the statistics of the whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from detheads.analytical.anchors import ANCHORS, encode, nearest_anchor
from detheads.analytical.assignment import assign_cells
from detheads.analytical.first_stage import PLACE, FirstStage
from detheads.analytical.moments import Moments, pack, unpack
from detheads.analytical.passes import pass_over
from detheads.analytical.plan import Plan
from detheads.cache.reader import FeatureCache
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress
from detheads.targets.objects import Targets
from detheads.training.checkpoint import describe, from_description
from detheads.training.sealed import read_sealed, write_sealed

PER_CLASS_LIMIT = 8
"""Up to this many classes each has its own scatter (and a Gaussian mixture can be made); beyond, they share one."""

_KIND = "detheads.statistics"


@dataclass
class Statistics:
    """Sums over images, and which images.

    Attributes:
        plan: what the rows mean.
        classes: for each level, moments of background (class 0) and the classes.
        anchors: for each level, the ridge problem "which anchor", over the cells that stand for an object.
        boxes: for each anchor, the ridge problem "where is the box".
        parts: ``(cache_sha256, first, end)`` of the images summed.
    """

    plan: Plan
    classes: list[Moments]
    anchors: list[Moments]
    boxes: list[Moments]
    parts: list[tuple[str, int, int]] = field(default_factory=list)

    @classmethod
    def empty(cls, plan: Plan) -> "Statistics":
        """No image yet."""
        classes, levels = 1 + len(plan.identity.categories), int(plan.identity.head_config["levels"])
        pilot = plan.tensors["pilot"]
        inputs = torch.cat((pilot, torch.zeros(PLACE)))
        pooled = classes > 1 + PER_CLASS_LIMIT
        return cls(
            plan,
            [Moments(pilot, classes=classes, pooled=pooled) for _ in range(levels)],
            [Moments(inputs, targets=ANCHORS) for _ in range(levels)],
            [Moments(inputs, targets=4) for _ in range(ANCHORS)],
        )

    @property
    def images(self) -> int:
        """Number of images summed."""
        return sum(end - first for _, first, end in self.parts)

    @property
    def rows(self) -> int:
        """Number of cells summed."""
        return round(sum(level.total for level in self.classes))

    def add(self, head: FirstStage, levels: list[Tensor], targets: list[Targets]) -> None:
        """Take the cells of some images in: ``head.level_rows`` of them and their objects."""
        anchors, place = self.plan.tensors["anchors"], head.places()
        objects = [assign_cells(head.points, head.strides, target.boxes) for target in targets]
        start = 0
        for level, rows in enumerate(levels):
            cells = slice(start, start + rows.shape[1])
            start += rows.shape[1]
            labels, inputs, boxes, centers = [], [], [], []
            for image, target in enumerate(targets):
                owner = objects[image][cells]
                taken = owner >= 0
                owner = owner[taken]
                label = torch.zeros(len(taken), dtype=torch.int64)
                label[taken] = target.labels[owner] + 1
                labels.append(label)
                inputs.append(torch.cat((rows[image, taken], place[cells][taken]), dim=1))
                boxes.append(target.boxes[owner])
                centers.append(head.points[cells][taken])
            self.classes[level].add(rows.flatten(0, 1), labels=torch.cat(labels))
            found = torch.cat(boxes)
            if len(found):
                self._add_objects(level, torch.cat(inputs), found, torch.cat(centers), anchors)

    def _add_objects(self, level: int, inputs: Tensor, boxes: Tensor, centers: Tensor, anchors: Tensor) -> None:
        nearest = nearest_anchor(boxes, anchors)
        self.anchors[level].add(inputs, targets=torch.nn.functional.one_hot(nearest, ANCHORS).to(inputs.dtype))
        offsets = encode(boxes, centers, anchors[nearest])
        for anchor in nearest.unique().tolist():
            own = nearest == anchor
            self.boxes[anchor].add(inputs[own], targets=offsets[own])

    def merge(self, other: "Statistics") -> None:
        """Add the statistics of other images.

        Raises:
            UserError: when they were made for another backbone, size, classes or options, or share images.
        """
        self.plan.require_same_rows(other.plan, "the part to merge")
        for sha256, first, end in other.parts:
            if any(sha256 == known and first < stop and start < end for known, start, stop in self.parts):
                raise UserError(f"both statistics hold images {first} to {end} of one cache; give each part once.")
        for kind, moments in other._moments().items():
            for mine, its in zip(self._moments()[kind], moments, strict=True):
                mine.merge(its)
        self.parts = sorted([*self.parts, *other.parts])

    def save(self, path: Path) -> None:
        """Write the state atomically to one safetensors file."""
        tensors = {f"plan.{name}": value for name, value in self.plan.tensors.items()}
        for kind, moments in self._moments().items():
            tensors |= pack({f"{kind}.{index}": each for index, each in enumerate(moments)})
        write_sealed(path, _KIND, {"plan": describe(self.plan.identity), "parts": self.parts}, tensors)

    def _moments(self) -> Mapping[str, list[Moments]]:
        return {"classes": self.classes, "anchors": self.anchors, "boxes": self.boxes}


def load_statistics(path: Path) -> Statistics:
    """Read what :meth:`Statistics.save` wrote.

    Raises:
        UserError: when the file is missing, damaged or something else.
    """
    description, tensors = read_sealed(path, _KIND, "make it with 'detheads analytical collect'")
    try:
        names = [name for name in tensors if name.startswith("plan.")]
        plan = Plan(
            from_description(description["plan"]), {name.removeprefix("plan."): tensors.pop(name) for name in names}
        )
        statistics = Statistics.empty(plan)
        found = unpack(tensors)
        for kind, moments in statistics._moments().items():
            moments[:] = [found[f"{kind}.{index}"] for index in range(len(moments))]
        statistics.parts = [(str(sha256), int(first), int(end)) for sha256, first, end in description["parts"]]
        return statistics
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} holds no statistics of this version ({error}); collect them again.") from None


@torch.no_grad()  # not inference_mode: the caller may merge more into the result
def collect(cache: FeatureCache, plan: Plan, path: Path, first: int, end: int, on_progress: Progress) -> Statistics:
    """Sum images ``first`` to ``end`` of a cache; the state is kept in ``path`` and taken up again from there.

    Raises:
        UserError: when ``path`` is a folder, or holds statistics of another plan or other images.
    """
    sha256 = cache.sha256
    statistics = resumed(path, plan, sha256, first, end) or Statistics.empty(plan)
    start = statistics.parts[0][2] if statistics.parts else first
    head = plan.build_head()

    def take(images: range, levels: list[Tensor]) -> None:
        statistics.add(head, levels, [cache.targets(image) for image in images])
        statistics.parts = [(sha256, first, images.stop)]
        on_progress("statistics", images.stop - first, end - first)

    def see(images: range) -> list[Tensor]:
        return head.level_rows(cache.features(images))

    pass_over(range(start, end), see, take, lambda: statistics.save(path))
    return statistics


def resumed(path: Path, plan: Plan, sha256: str, first: int, end: int) -> Statistics | None:
    """What an earlier pass from image ``first`` on has summed so far; None where there was none.

    Raises:
        UserError: when ``path`` is a folder, or holds statistics of another plan or other images.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a file for the statistics with -o.")
    if not path.is_file():
        return None
    found = load_statistics(path)
    plan.require_same_rows(found.plan, str(path))
    if len(found.parts) != 1 or found.parts[0][:2] != (sha256, first) or found.parts[0][2] > end:
        raise UserError(f"{path} holds statistics of other images; delete it or choose another place with -o.")
    return found
