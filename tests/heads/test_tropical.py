"""The tropical layers against loops, the laws of a semiring, and scipy's grey morphology."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from detheads.heads.tropical import dilate, erode, max_plus, min_plus

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
