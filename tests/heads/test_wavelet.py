"""What is particular to the wavelet head: each level reads the details of its own step."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detheads.headkit import registry
from detheads.heads.wavelet import Wavelet
from detheads.ops.wavelet import Family
from tests.heads.worlds import SPECS
from tests.ops.inverses import synthesise


@pytest.mark.parametrize("family", ["haar", "db2"])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_each_level_reads_the_details_of_its_own_step(family: Family, step: int) -> None:
    """A map made of the details of one step alone has its energy in the details of that step."""
    spec = SPECS["vit-square"]  # 8x8 cells
    torch.manual_seed(0)
    head = registry.build("wavelet", spec, 5, {"width": 4, "tower_blocks": 1, "family": family}).eval()
    assert isinstance(head, Wavelet)
    torch.nn.init.zeros_(head.project.weight)
    torch.nn.init.eye_(head.project.weight[:, :4, 0, 0])
    side = 8 // 2**step
    x = synthesise(torch.zeros(1, 4, side, side), torch.randn(1, 4, 3, side, side), head.bank, (2 * side, 2 * side))
    for _ in range(step - 1):
        x = synthesise(x, x.new_zeros(1, 4, 3, *x.shape[2:]), head.bank, (2 * x.shape[2], 2 * x.shape[3]))
    heard: list[Tensor] = []
    head.mix.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
    padded = F.pad(x, (0, 0, 0, 0, 0, 44))  # the spec's 48 channels
    head.levels({"last": padded})
    energy = [float(bands[:, 4:].detach().square().sum()) for bands in heard]
    assert [value > 1e-3 for value in energy] == [index + 1 == step for index in range(3)]
