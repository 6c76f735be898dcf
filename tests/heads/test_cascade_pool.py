"""The cascade against torch's poolings: what lies between two levels is pooling and nothing else."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import maximum_filter

from detheads.headkit import registry
from detheads.headkit.cost import parameters_of
from detheads.heads.cascade_pool import CascadePool, PoolingContext, mixed_pool
from tests.heads.worlds import SPECS, random_features


@pytest.mark.parametrize("size", [(6, 8), (5, 13), (1, 1), (4, 7)])
def test_a_gate_at_its_extremes_is_one_of_torchs_poolings(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    maximum, average = mixed_pool(x, torch.full((3,), 200.0)), mixed_pool(x, torch.full((3,), -200.0))
    assert torch.equal(maximum, F.max_pool2d(x, 2, ceil_mode=True))
    assert torch.equal(average, F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False))
    torch.testing.assert_close(mixed_pool(x, torch.zeros(3)), (maximum + average) / 2)


def test_each_channel_has_its_own_gate() -> None:
    x = torch.randn(1, 2, 4, 4)
    mixed = mixed_pool(x, torch.tensor([200.0, -200.0]))
    assert torch.equal(mixed[:, 0], F.max_pool2d(x, 2)[:, 0])
    assert torch.equal(mixed[:, 1], F.avg_pool2d(x, 2)[:, 1])


def test_context_is_the_maximum_of_3_and_7_cells() -> None:
    x = torch.randn(1, 1, 20, 17)
    context = PoolingContext(1)
    seen: list[torch.Tensor] = []
    context.mix.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    context(x)
    for channel, cells in enumerate((1, 3, 7)):
        wanted = maximum_filter(x[0, 0].numpy(), cells, mode="constant", cval=-np.inf)
        np.testing.assert_array_equal(seen[0][0, channel].numpy(), wanted)


def test_coarser_levels_come_from_the_finest_by_pooling_alone() -> None:
    """With every gate at the maximum and no context, a level is the maximum over its cells of the backbone's grid."""
    spec = SPECS["vit-square"]
    head = registry.build("cascade_pool", spec, 5, {"width": 8, "tower_blocks": 1}).eval()
    assert isinstance(head, CascadePool)
    with torch.no_grad():
        head.gates.fill_(200.0)
    torch.nn.init.zeros_(head.context.mix[1].weight)
    _, base, *coarser = head.levels(random_features(spec, 2))
    for octave, level in enumerate(coarser, start=1):
        assert torch.equal(level, F.max_pool2d(base, 2**octave))


def _projected(**options: object) -> tuple[CascadePool, torch.Tensor, list[torch.Tensor]]:
    """A head, the map that it starts from, and its levels at that stride and above."""
    spec = SPECS["vit-square"]
    torch.manual_seed(0)
    head = registry.build("cascade_pool", spec, 5, {"width": 8, "tower_blocks": 1} | options).eval()
    assert isinstance(head, CascadePool)
    features = random_features(spec, 2)
    return head, head.project(features["last"]), head.levels(features)[1:]


def test_without_its_ideas_the_levels_are_averages_and_nothing_but_the_projection_is_left_before_the_towers() -> None:
    head, base, levels = _projected(downsample="average", context=False)
    for octave, level in enumerate(levels):
        torch.testing.assert_close(level, F.avg_pool2d(base, 2**octave))
    plain = registry.build("plain", SPECS["vit-square"], 5, {"width": 8, "tower_blocks": 1, "levels": 5})
    assert parameters_of(head) == parameters_of(plain)


def test_strided_convolutions_take_the_place_of_the_poolings() -> None:
    head, base, levels = _projected(downsample="strided", context=False)
    assert torch.equal(levels[0], base)
    for (finer, coarser), downsample in zip(pairwise(levels), head.strided, strict=True):
        assert torch.equal(coarser, downsample(finer))
