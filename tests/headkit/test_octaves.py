"""Octaves: a projected map, averages of it, and a finer one."""

from itertools import pairwise

import pytest
import torch

from detheads.headkit.octaves import Octaves, octave_strides
from tests.heads.worlds import SPECS, random_features


@pytest.mark.parametrize("name", ["vit-square", "cnn-square"])
def test_every_coarser_level_is_the_average_of_two_by_two_cells(name: str) -> None:
    spec = SPECS[name]
    torch.manual_seed(0)
    with torch.no_grad():
        _, *levels = Octaves(spec, 8, 4)(random_features(spec, 2))
    for finer, coarser in pairwise(levels):
        height, width = coarser.shape[2:]
        torch.testing.assert_close(coarser, finer.view(2, 8, height, 2, width, 2).mean(dim=(3, 5)))


@pytest.mark.parametrize("name", sorted(SPECS))
@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_level_has_one_cell_a_stride(name: str, count: int) -> None:
    spec = SPECS[name]
    levels, strides = Octaves(spec, 8, count)(random_features(spec, 1)), octave_strides(spec, count)
    assert strides[0] == (7 if name == "vit-patch14" else 8)
    cells = [(-(-spec.height // stride), -(-spec.width // stride)) for stride in strides]
    assert [tuple(level.shape[2:]) for level in levels] == cells
