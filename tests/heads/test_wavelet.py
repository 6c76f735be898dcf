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


def _mixed(scales: str, x: Tensor) -> tuple[Wavelet, list[Tensor]]:
    """A head that projects nothing, and what it mixes its three coarser levels of."""
    channels = SPECS["vit-square"].main_layers[0].channels
    options = {"width": channels, "tower_blocks": 1, "family": "haar", "scales": scales}
    head = registry.build("wavelet", SPECS["vit-square"], 5, options).eval()
    assert isinstance(head, Wavelet)
    torch.nn.init.dirac_(head.project.weight)
    heard: list[Tensor] = []
    head.mix.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0].detach()))
    head.levels({"last": x})
    return head, heard


def test_without_details_a_level_is_mixed_of_averages_alone() -> None:
    """Haar's approximations are averages of 2x2 cells, twice as large each time."""
    x = torch.randn(2, 48, 8, 8)
    _, heard = _mixed("approximations", x)
    for step, approximation in enumerate(heard, start=1):
        torch.testing.assert_close(approximation, 2**step * F.avg_pool2d(x, 2**step))


def test_cofiber_bands_in_the_same_head_are_what_the_averages_lack() -> None:
    x = torch.randn(2, 48, 8, 8)
    wavelet, _ = _mixed("wavelet", x)
    head, heard = _mixed("bands", x)
    assert {name for name, _ in head.named_parameters()} == {name for name, _ in wavelet.named_parameters()}
    finer = x
    for mixed in heard:
        average, band = mixed[:, :48], F.pixel_shuffle(mixed[:, 48:], 2)
        torch.testing.assert_close(average, F.avg_pool2d(finer, 2))
        larger = F.interpolate(average, scale_factor=2, mode="bilinear", align_corners=False)
        torch.testing.assert_close(larger + band, finer)
        finer = average
