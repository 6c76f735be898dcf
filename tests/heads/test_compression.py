"""Nothing but the code passes the bottleneck, and the code is what it says."""

import math

import pytest
import torch

from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.heads.compression import Compression, FiniteScalarQuantiser
from tests.heads.worlds import SPECS, random_features

NARROW = {"code": 3, "levels": 5, "width": 16, "tower_blocks": 1}


def _build(name: str = "vit-wide", **options: object) -> Compression:
    torch.manual_seed(0)
    head = registry.build("compression", SPECS[name], 5, NARROW | options).eval()
    assert isinstance(head, Compression)
    return head


@pytest.mark.parametrize("levels", [3, 5, 15])
def test_values_are_the_nearest_of_equally_spaced_levels(levels: int) -> None:
    x = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    found = FiniteScalarQuantiser(levels)(x)
    allowed = torch.linspace(-1, 1, levels, dtype=torch.float64)
    distance = (x.tanh()[:, None] - allowed).abs()
    assert set(found.double().sub(allowed[:, None]).abs().argmin(0).tolist()) == set(range(levels))
    torch.testing.assert_close(found.double(), allowed[distance.argmin(1)], atol=1e-6, rtol=0)
    assert len(found.unique()) == levels
    assert 0.0 in found


def test_the_gradient_is_that_of_the_bound() -> None:
    x = torch.randn(50, requires_grad=True)
    FiniteScalarQuantiser(7)(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, 1 - x.detach().tanh().square())


def test_codes_are_alike_in_training_and_evaluation_and_take_few_values() -> None:
    head, features = _build(), random_features(SPECS["vit-wide"], 4)
    code = head.code(features)
    assert code.shape == (4, 3, 5, 13)
    assert 2 <= len(code.unique()) <= 5
    assert torch.equal(head.train().code(features), code)


@pytest.mark.parametrize("name", ["vit-wide", "cnn-tall"])
def test_features_of_equal_codes_give_equal_outputs_and_others_do_not(name: str) -> None:
    head = _build(name)
    first, second = random_features(SPECS[name], 1), random_features(SPECS[name], 1, seed=8)
    code = head.code(first)
    wanted = head(first)
    assert not torch.equal(head(second).logits, wanted.logits)
    head.quantiser.register_forward_hook(lambda module, inputs, output: code)  # the codes of all features are now equal
    found = head(second)
    for key in ("boxes", "logits", "quality"):
        assert torch.equal(getattr(found, key), getattr(wanted, key))


def test_a_change_too_small_for_the_code_does_not_reach_the_output() -> None:
    head, features = _build(), random_features(SPECS["vit-wide"], 1)
    nudged = {key: values + 1e-6 * torch.randn_like(values) for key, values in features.items()}
    assert not torch.equal(head.bottleneck(nudged["last"]), head.bottleneck(features["last"]))
    assert torch.equal(head.code(nudged), head.code(features))
    assert torch.equal(head(nudged).logits, head(features).logits)


def test_bits_a_cell_are_those_of_the_code() -> None:
    assert _build(code=3, levels=5).bits_per_cell == pytest.approx(math.log2(5**3))


@pytest.mark.parametrize("levels", [0, 1, 2, 8])
def test_even_and_too_few_levels_are_refused(levels: int) -> None:
    with pytest.raises(ValueError, match=f"odd and at least 3, not {levels}"):
        FiniteScalarQuantiser(levels)


def test_a_head_with_an_even_number_of_levels_is_refused() -> None:
    with pytest.raises(UserError, match=r"head compression cannot be built with .*levels must be odd"):
        _build(levels=8)


def test_what_is_not_rounded_is_bounded_by_the_same_weights() -> None:
    head, exact = _build(), _build(rounded=False)
    assert all(torch.equal(value, exact.state_dict()[name]) for name, value in head.state_dict().items())
    features = random_features(SPECS["vit-wide"], 1)
    code = exact.code(features)
    torch.testing.assert_close(code, exact.bottleneck(features["last"]).tanh())
    assert (code - head.code(features)).abs().max() <= 1 / 4 + 1e-6  # half a step of five values
    assert exact.bits_per_cell == 3 * 32


def test_without_a_bottleneck_the_code_is_as_wide_as_the_towers() -> None:
    head = _build(bottleneck=False)
    assert head.code(random_features(SPECS["vit-wide"], 1)).shape[1] == 16
    assert {name for name, _ in head.named_parameters()} == {name for name, _ in _build().named_parameters()}
