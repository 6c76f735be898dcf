"""The tropical layers against loops, the laws of a semiring, and scipy's grey morphology."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from detheads.headkit import registry
from detheads.heads.tropical import LinearBlock, Tropical, TropicalBlock, dilate, erode, max_plus, min_plus
from tests.heads.worlds import SPECS

Product = Callable[[Tensor, Tensor], Tensor]
PRODUCTS = [(min_plus, min, torch.minimum), (max_plus, max, torch.maximum)]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def _random(generator: torch.Generator, *shape: int) -> Tensor:
    """Multiples of 1/64, whose sums are exact, so that laws hold to the last bit."""
    return torch.randint(-300, 300, shape, generator=generator) / 64


@pytest.mark.parametrize(("product", "best", "_add"), PRODUCTS)
def test_a_layer_is_the_product_of_a_loop(
    product: Product, best: Callable[..., float], _add: Product, generator: torch.Generator
) -> None:
    weight, x = _random(generator, 4, 6), _random(generator, 2, 6, 5)
    found = product(weight, x)
    assert found.shape == (2, 4, 5)
    for image in range(2):
        for row in range(4):
            for column in range(5):
                wanted = best(float(weight[row, i] + x[image, i, column]) for i in range(6))
                assert float(found[image, row, column]) == wanted


@pytest.mark.parametrize(("product", "_best", "add"), PRODUCTS)
def test_a_layer_is_linear_in_its_semiring(
    product: Product, _best: object, add: Product, generator: torch.Generator
) -> None:
    weight, x, y = _random(generator, 7, 5), _random(generator, 2, 5, 9), _random(generator, 2, 5, 9)
    assert torch.equal(product(weight, add(x, y)), add(product(weight, x), product(weight, y)))
    assert torch.equal(product(weight, x + 2.5), product(weight, x) + 2.5)


@pytest.mark.parametrize(("product", "_best", "_add"), PRODUCTS)
def test_two_layers_of_one_semiring_are_their_product(
    product: Product, _best: object, _add: object, generator: torch.Generator
) -> None:
    first, second, x = _random(generator, 4, 6), _random(generator, 6, 5), _random(generator, 2, 5, 9)
    both = product(first, second[None])[0]
    assert torch.equal(product(both, x), product(first, product(second, x)))


def test_gradient_goes_to_the_winner_alone() -> None:
    x = torch.tensor([[[3.0], [1.0], [2.0]]], requires_grad=True)
    weight = torch.tensor([[0.0, 0.0, -1.5]], requires_grad=True)
    min_plus(weight, x).sum().backward()
    assert x.grad is not None
    assert weight.grad is not None
    assert x.grad.flatten().tolist() == weight.grad.flatten().tolist() == [0, 0, 1]


def test_morphology_is_that_of_scipy(generator: torch.Generator) -> None:
    x, kernel = _random(generator, 2, 3, 6, 9), _random(generator, 3, 3, 3)
    for image in range(2):
        for channel in range(3):
            picture, element = x[image, channel].numpy(), kernel[channel].numpy()
            # Scipy's dilation reflects the element, so that it is the adjoint of the erosion with the same one.
            dilation = ndimage.grey_dilation(picture, structure=element[::-1, ::-1], mode="nearest")
            erosion = ndimage.grey_erosion(picture, structure=element, mode="nearest")
            np.testing.assert_array_equal(dilate(x, kernel)[image, channel].numpy(), dilation)
            np.testing.assert_array_equal(erode(x, kernel)[image, channel].numpy(), erosion)


@pytest.mark.parametrize(("product", "_best", "_add"), PRODUCTS)
def test_groups_have_a_matrix_each(product: Product, _best: object, _add: object, generator: torch.Generator) -> None:
    weight, x = _random(generator, 3, 4, 6), _random(generator, 2, 3, 6, 5)
    found = product(weight, x)
    for group in range(3):
        assert torch.equal(found[:, group], product(weight[group], x[:, group]))


def _without_norms(block: nn.Module) -> nn.Module:
    """A block that does not normalise, which joins all cells."""
    block.mix[1] = nn.Identity()  # type: ignore[operator,index]
    block.norm = nn.Identity()
    return block


def test_a_block_sees_the_cells_around_one_by_erosion_and_dilation_alone(generator: torch.Generator) -> None:
    torch.manual_seed(0)
    block = _without_norms(TropicalBlock(16, 4))
    x = torch.randn(1, 16, 7, 7, generator=generator)
    changed = x.clone()
    changed[..., 3, 3] += 10.0
    with torch.no_grad():
        seen = (block(changed) - block(x)).abs().sum(dim=1)[0]
        assert {tuple(cell) for cell in seen.nonzero().tolist()} == {(y, x) for y in (2, 3, 4) for x in (2, 3, 4)}
        block.space.fill_(-torch.inf)  # type: ignore[operator]
        block.space[:, 1, 1] = 0.0  # type: ignore[index]
        alone = (block(changed) - block(x)).abs().sum(dim=1)[0]
    assert alone.nonzero().tolist() == [[3, 3]]


def test_each_channel_hears_of_all_groups(generator: torch.Generator) -> None:
    """With flat weights the outputs are the largest of all groups' smallest channels, whatever group they are in."""
    torch.manual_seed(0)
    block = TropicalBlock(16, 4)
    with torch.no_grad():
        for weight in (block.every, block.some):
            weight.zero_()
        x = _random(generator, 2, 16, 5, 5)
        space = torch.cat((erode(x[:, :8], block.space[:8]), dilate(x[:, 8:], block.space[8:])), dim=1)
        smallest = space.view(2, 4, 4, 5, 5).amin(dim=2)
        assert torch.equal(block.combine(x), smallest.amax(dim=1, keepdim=True).expand(-1, 16, -1, -1))


def test_the_control_is_the_same_weights_as_convolutions_with_relu(generator: torch.Generator) -> None:
    torch.manual_seed(0)
    block = LinearBlock(24, 4)
    x = torch.randn(2, 24, 5, 6, generator=generator)
    with torch.no_grad():
        mixed = block.mix(x)
        depthwise = nn.Conv2d(24, 24, 3, padding=1, padding_mode="replicate", groups=24, bias=False)
        depthwise.weight.copy_(block.space[:, None])
        every, some = (weight.reshape(24, 4, 1, 1) for weight in (block.every, block.some))
        first = F.conv2d(depthwise(mixed).relu(), every, groups=6).relu()
        second = F.conv2d(F.channel_shuffle(first, 6), some, groups=6)
        torch.testing.assert_close(block(x), x + block.norm(second))


def test_the_control_has_the_same_parameters() -> None:
    tropical, linear = (
        registry.build("tropical", SPECS["vit-square"], 5, {"width": 24, "semiring": semiring})
        for semiring in ("tropical", "linear")
    )
    assert isinstance(tropical, Tropical)
    shapes = [{name: value.shape for name, value in head.named_parameters()} for head in (tropical, linear)]
    assert shapes[0] == shapes[1]
    of_towers = {name: size.numel() for name, size in shapes[0].items() if "tower" in name}
    spatial = [size for name, size in shapes[0].items() if "tower" in name and size[-2:] == (3, 3)]
    assert all(len(size) == 3 for size in spatial)  # no convolution over space: an element a channel
    own = sum(count for name, count in of_towers.items() if name.endswith(("space", "every", "some")))
    assert own > 0.2 * sum(of_towers.values())
