"""Objects of a whole batch are assigned as those of each image alone."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from detheads.targets.atss import assign_atss, assign_atss_batch
from detheads.targets.fcos import assign_fcos, assign_fcos_batch
from detheads.targets.heatmap import heatmap_targets, heatmaps_of
from detheads.targets.objects import TargetBatch, Targets
from tests.targets.scenes import EDGE_CASES, grid, random_boxes

STRIDES = [8.0, 16.0, 37.25, 96.0]
FCOS: dict[str, Any] = {"level_ranges": [(0.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, math.inf)]}
EVERYWHERE: dict[str, Any] = {"level_ranges": [(0.0, math.inf)] * 4, "center_radius": None}
RULES = {
    "atss": (assign_atss, assign_atss_batch),
    "fcos": (partial(assign_fcos, **FCOS), partial(assign_fcos_batch, **FCOS)),
    "everywhere": (partial(assign_fcos, **EVERYWHERE), partial(assign_fcos_batch, **EVERYWHERE)),
}
SCENES = {
    "random": [random_boxes(count, seed) for seed, count in enumerate((12, 0, 1, 30, 2))],
    "edge cases": [torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) for boxes in EDGE_CASES.values()],
    "empty": [torch.zeros(0, 4)] * 3,
}


def batch_of(scenes: list[Tensor]) -> TargetBatch:
    return TargetBatch.of([Targets(boxes, torch.arange(len(boxes)) % 3) for boxes in scenes])


def in_images(matched: Tensor, targets: TargetBatch) -> Tensor:
    """Indices among all objects as indices in the image."""
    return torch.cat((targets.places, torch.tensor([-1])))[matched]


@pytest.mark.parametrize("scenes", SCENES)
@pytest.mark.parametrize("rule", RULES)
def test_points_of_an_image_in_a_batch_are_assigned_as_if_it_were_alone(rule: str, scenes: str) -> None:
    single, whole = RULES[rule]
    points, counts, strides = grid(STRIDES)
    targets = batch_of(SCENES[scenes])
    matched = whole(points, counts, strides, targets.boxes, targets.images, len(targets))
    assert matched.dtype == torch.int64
    images, _ = torch.nonzero(matched >= 0, as_tuple=True)
    assert torch.equal(targets.images[matched[matched >= 0]], images)
    alone = torch.stack([single(points, counts, strides, target.boxes) for target in targets])
    assert torch.equal(in_images(matched, targets), alone)
    assert (alone >= 0).any() == (scenes != "empty")


@pytest.mark.parametrize("rule", RULES)
def test_a_crowded_batch_is_assigned_in_parts_as_it_is_whole(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, assign = RULES[rule]
    points, counts, strides = grid(STRIDES)
    targets = batch_of(SCENES["random"])
    wanted = assign(points, counts, strides, targets.boxes, targets.images, len(targets))
    for module in ("atss", "fcos"):
        monkeypatch.setattr(f"detheads.targets.{module}.MOST_PAIRS", 7 * len(points))
    assert torch.equal(assign(points, counts, strides, targets.boxes, targets.images, len(targets)), wanted)


@pytest.mark.parametrize("scenes", ["random", "empty"])
def test_heatmaps_of_a_batch_are_those_of_its_images(scenes: str) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = batch_of(SCENES[scenes])
    cells = torch.randint(7, (len(targets.boxes), 2), generator=generator)
    radii = 4 * torch.rand(len(targets.boxes), generator=generator)
    found = heatmaps_of(targets, cells, radii, (len(targets), 3, 8, 9))
    for image, (maps, target) in enumerate(zip(found, targets, strict=True)):
        own = targets.images == image
        assert torch.equal(maps, heatmap_targets(cells[own], radii[own], target.labels, 3, 8, 9))
