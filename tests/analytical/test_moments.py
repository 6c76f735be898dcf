"""Streamed moments are those of all the rows, whatever the chunks, shards, weights and pilots."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from detheads.analytical.estimators import lda_from_moments
from detheads.analytical.moments import BLOCK_ROWS, Moments, pack, unpack

CLASSES, DIMENSIONS, ROWS = 3, 12, 2 * BLOCK_ROWS + 500
POOLED = pytest.mark.parametrize("pooled", [False, True], ids=["a scatter each", "one scatter"])


def _rows(count: int = ROWS, dimensions: int = DIMENSIONS, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Correlated float64 rows far from zero, and labels of which nine in ten are 0."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    rows = torch.randn(count, dimensions, generator=generator, dtype=torch.float64) @ mixing + 20
    labels = (torch.rand(count, generator=generator) * 20 - 17).clamp(min=0).long()
    return rows + 2 * labels[:, None], labels


def _weights(count: int = ROWS) -> Tensor:
    return torch.randint(0, 4, (count,), generator=torch.Generator().manual_seed(5)).double()


def _pilot(offset: float = 0.5) -> Tensor:
    return _rows()[0].mean(0).float() + offset


def _streamed(rows: Tensor, labels: Tensor, weights: Tensor | None, pooled: bool, chunk: int) -> Moments:
    moments = Moments(_pilot(), classes=CLASSES, pooled=pooled)
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        moments.add(rows[part], labels=labels[part], weights=None if weights is None else weights[part])
    return moments


def _targets(rows: Tensor) -> Tensor:
    noise = torch.randn(len(rows), 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return rows[:, :4] + noise + 3


def _assert_equal_moments(one: Moments, other: Moments, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(one.weight, other.weight)
    torch.testing.assert_close(one.mean(), other.mean(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(one.covariance(), other.covariance(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("chunk", [1, 333, BLOCK_ROWS, ROWS])
@pytest.mark.parametrize("weighted", [False, True])
def test_class_moments_are_those_of_numpy_on_all_rows(chunk: int, weighted: bool) -> None:
    rows, labels = _rows(700 if chunk == 1 else ROWS)
    weights = _weights(len(rows)) if weighted else None
    moments = _streamed(rows, labels, weights, False, chunk)
    pooled = _streamed(rows, labels, weights, True, chunk)
    repeats = (torch.ones(len(rows)) if weights is None else weights).long()
    rows, labels = rows.repeat_interleave(repeats, 0), labels.repeat_interleave(repeats)
    within = np.zeros((DIMENSIONS, DIMENSIONS))
    for number in range(CLASSES):
        own = rows[labels == number].numpy()
        covariance = np.cov(own.T, bias=True)
        within += covariance * len(own) / len(rows)
        assert moments.weight[number] == len(own)
        np.testing.assert_allclose(moments.mean()[number], own.mean(0), rtol=1e-12)
        np.testing.assert_allclose(moments.covariance()[number], covariance, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(pooled.mean(), moments.mean())
    assert pooled.covariance().shape == (1, DIMENSIONS, DIMENSIONS)
    np.testing.assert_allclose(pooled.covariance()[0], within, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("weighted", [False, True])
def test_ridge_moments_are_those_of_numpy_on_all_rows(weighted: bool) -> None:
    rows, targets = _rows()[0], _targets(_rows()[0])
    weights = _weights() if weighted else None
    moments = Moments(_pilot(), targets=4)
    for part in (slice(0, 100), slice(100, ROWS)):
        moments.add(rows[part], targets=targets[part], weights=None if weights is None else weights[part])
    repeats = (torch.ones(len(rows)) if weights is None else weights).long()
    rows, targets = rows.repeat_interleave(repeats, 0), targets.repeat_interleave(repeats, 0)
    centred, wanted = rows - rows.mean(0), targets - targets.mean(0)
    assert moments.total == len(rows)
    torch.testing.assert_close(moments.mean()[0], rows.mean(0))
    torch.testing.assert_close(moments.target_mean(), targets.mean(0))
    torch.testing.assert_close(moments.scatter()[0], centred.T @ centred, rtol=1e-10, atol=1e-7)
    torch.testing.assert_close(moments.cross(), centred.T @ wanted, rtol=1e-10, atol=1e-7)
    torch.testing.assert_close(moments.target_scatter(), wanted.square().sum(0), rtol=1e-10, atol=1e-7)


def _orders() -> list[tuple[int, ...]]:
    shuffled = list(itertools.permutations(range(7)))
    return [tuple(range(7)), tuple(reversed(range(7))), *random.Random(1).sample(shuffled, 4)]


def _as_one_chain(parts: list[Moments]) -> Moments:
    first, *others = parts
    for other in others:
        first.merge(other)
    return first


def _as_a_tree(parts: list[Moments]) -> Moments:
    middle = len(parts) // 2
    if not middle:
        return parts[0]
    return _as_one_chain([_as_a_tree(parts[:middle]), _as_a_tree(parts[middle:])])


@pytest.mark.parametrize("gather", [_as_one_chain, _as_a_tree])
@POOLED
@pytest.mark.parametrize("pilots_differ", [False, True])
@pytest.mark.parametrize("order", _orders(), ids=str)
def test_seven_shards_merged_in_any_order_are_one_pass(
    order: tuple[int, ...],
    pilots_differ: bool,
    pooled: bool,
    gather: Callable[[list[Moments]], Moments],
) -> None:
    rows, labels = _rows()
    whole = _streamed(rows, labels, _weights(), pooled, ROWS)
    shards = []
    for number in order:
        shard = Moments(_pilot(number if pilots_differ else 0.5), classes=CLASSES, pooled=pooled)
        part = slice(number, ROWS, 7)
        shard.add(rows[part], labels=labels[part], weights=_weights()[part])
        shards.append(shard)
    _assert_equal_moments(gather(shards), whole)


@pytest.mark.parametrize("pilots_differ", [False, True])
def test_ridge_shards_merged_in_any_order_are_one_pass(pilots_differ: bool) -> None:
    rows = _rows()[0]
    whole = Moments(_pilot(), targets=4)
    whole.add(rows, targets=_targets(rows), weights=_weights())
    for order in _orders():
        merged = Moments(_pilot(), targets=4)
        for number in order:
            shard = Moments(_pilot(number if pilots_differ else 0.5), targets=4)
            part = slice(number, ROWS, 7)
            shard.add(rows[part], targets=_targets(rows)[part], weights=_weights()[part])
            merged.merge(shard)
        assert merged.total == whole.total
        for name in ("mean", "target_mean", "scatter", "cross", "target_scatter"):
            torch.testing.assert_close(getattr(merged, name)(), getattr(whole, name)(), rtol=1e-11, atol=1e-8)


def _hard_rows(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows with means of 30 standard deviations and a covariance of condition 1e5; 1 in 50 is of class 1."""
    generator = torch.Generator().manual_seed(7)
    dimensions, count = 48, 40_000
    rotation = torch.linalg.qr(torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64))[0]
    spread = torch.logspace(0, -2.5, dimensions, dtype=torch.float64)
    labels = (torch.rand(count, generator=generator) < 0.02).long()
    rows = (torch.randn(count, dimensions, generator=generator, dtype=torch.float64) * spread) @ rotation
    deviation = rows.std(0)
    apart = (spread * torch.randn(dimensions, generator=generator, dtype=torch.float64)) @ rotation
    # Rounded to float32 first: the features are given in float32, the question is what the products lose.
    return (rows + labels[:, None] * apart + 30 * deviation).float().to(dtype), labels


def _direction(dtype: torch.dtype, pilot: Tensor) -> np.ndarray:
    rows, labels = _hard_rows(dtype)
    moments = Moments(pilot, classes=2)
    for part in torch.arange(len(rows)).split(9216):
        moments.add(rows[part], labels=labels[part])
    direction = lda_from_moments(moments).coef_[0]
    return direction / np.linalg.norm(direction)


@pytest.mark.filterwarnings("ignore:the covariance within")  # without a pilot it may even look singular
def test_float32_products_with_a_pilot_give_the_float64_direction_and_without_one_do_not() -> None:
    rows, _ = _hard_rows(torch.float32)
    pilot = rows[:500].mean(0)  # an early guess, not the mean
    exact = _direction(torch.float64, pilot)
    assert np.linalg.cond(np.cov(rows.double().numpy().T)) > 1e4
    with_pilot = np.linalg.norm(_direction(torch.float32, pilot) - exact)
    without = np.linalg.norm(_direction(torch.float32, torch.zeros_like(pilot)) - exact)
    assert with_pilot < 0.005
    assert without > 5 * with_pilot
    assert without > 0.005


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rows_of_lesser_precision_are_multiplied_in_float32(dtype: torch.dtype) -> None:
    rows, labels = _rows()
    rows = rows.to(dtype)
    moments = _streamed(rows, labels, None, False, ROWS)
    exact = _streamed(rows.double(), labels, None, False, ROWS)
    assert (moments.resolution, exact.resolution) == (1e-7, 1e-12)
    _assert_equal_moments(moments, exact, 1e-4)


def test_one_float32_shard_makes_the_whole_a_float32_result() -> None:
    rows, labels = _rows()
    exact = _streamed(rows, labels, None, True, ROWS)
    exact.merge(_streamed(rows.float(), labels, None, True, ROWS))
    assert exact.resolution == 1e-7


@POOLED
def test_a_pass_continues_from_its_saved_state(pooled: bool, tmp_path: Path) -> None:
    rows, labels = _rows()
    half = _streamed(rows[:900], labels[:900], None, pooled, 300)
    save_file(half.tensors(), tmp_path / "moments.safetensors")
    resumed = Moments.from_tensors(load_file(tmp_path / "moments.safetensors"))
    assert (resumed.pooled, resumed.resolution) == (pooled, half.resolution)
    for moments in (half, resumed):
        moments.add(rows[900:], labels=labels[900:])
    _assert_equal_moments(resumed, half, 0)


def test_a_ridge_pass_continues_from_its_saved_state(tmp_path: Path) -> None:
    rows, targets = _rows()[0].float(), _targets(_rows()[0])
    half = Moments(_pilot(), targets=4)
    half.add(rows[:900], targets=targets[:900])
    save_file(half.tensors(), tmp_path / "moments.safetensors")
    resumed = Moments.from_tensors(load_file(tmp_path / "moments.safetensors"))
    for moments in (half, resumed):
        moments.add(rows[900:], targets=targets[900:])
    saved = resumed.tensors()
    assert all(torch.equal(saved[name], tensor) for name, tensor in half.tensors().items())


def test_several_moments_are_kept_side_by_side_with_other_tensors() -> None:
    rows, labels = _rows()
    kept = {
        "anchors.0": _streamed(rows, labels, None, False, ROWS),
        "anchors.1": _streamed(rows, labels, None, True, ROWS),
    }
    found = unpack(pack(kept) | {"count": torch.tensor(7)})
    assert found.keys() == kept.keys()
    for name, moments in kept.items():
        _assert_equal_moments(found[name], moments, 0)


def test_what_comes_back_from_a_state_shares_no_memory_with_it() -> None:
    rows, labels = _rows()
    moments = _streamed(rows, labels, None, False, ROWS)
    before = moments.covariance()
    Moments.from_tensors(moments.tensors()).add(rows, labels=labels)
    assert torch.equal(moments.covariance(), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"second": None}, "moments consist of"),
        ({"curl": torch.zeros(3)}, "moments consist of"),
        ({"second": torch.zeros(CLASSES, 5, 5, dtype=torch.float64)}, "second should be"),
        ({"first": torch.zeros(CLASSES, DIMENSIONS)}, "first should be float64"),
        ({"weight": torch.zeros((), dtype=torch.float64)}, "should be"),
    ],
)
def test_a_foreign_state_is_refused(change: dict[str, Tensor | None], message: str) -> None:
    tensors = {**Moments(_pilot(), classes=CLASSES).tensors(), **change}
    with pytest.raises(ValueError, match=message):
        Moments.from_tensors({name: tensor for name, tensor in tensors.items() if tensor is not None})


def test_states_saved_before_classes_and_targets_were_kept_together_are_read() -> None:
    rows, labels = _rows()
    classes, ridge = _streamed(rows, labels, None, False, ROWS), Moments(_pilot(), targets=4)
    ridge.add(rows, targets=_targets(rows))
    old = {name: classes.tensors()[name] for name in ("pilot", "weight", "first", "second", "pooled", "double")}
    _assert_equal_moments(Moments.from_tensors(old), classes, 0)
    old = {name: tensor for name, tensor in ridge.tensors().items() if name != "pooled"}
    old |= {name: old[name][0] for name in ("weight", "first", "second")}
    read = Moments.from_tensors(old).tensors()
    assert all(torch.equal(read[name], tensor) for name, tensor in ridge.tensors().items())


@pytest.mark.parametrize(
    "other",
    [
        Moments(_pilot(), classes=CLASSES + 1, targets=4),
        Moments(_pilot()[1:], classes=CLASSES, targets=4),
        Moments(_pilot(), classes=CLASSES, targets=5),
        Moments(_pilot(), classes=CLASSES, targets=4, pooled=True),
    ],
    ids=["classes", "dimensions", "targets", "scatter"],
)
def test_moments_of_another_shape_do_not_merge(other: Moments) -> None:
    with pytest.raises(ValueError, match="12 dimensions, 4 targets and 3 classes with a scatter each cannot take in"):
        Moments(_pilot(), classes=CLASSES, targets=4).merge(other)


def test_targets_are_those_of_all_classes_together() -> None:
    rows, labels = _rows()
    one, several = Moments(_pilot(), targets=4), Moments(_pilot(), classes=CLASSES, targets=4)
    one.add(rows, targets=_targets(rows))
    several.add(rows, labels=labels, targets=_targets(rows))
    for name in ("target_mean", "cross", "target_scatter"):
        torch.testing.assert_close(getattr(several, name)(), getattr(one, name)(), rtol=1e-11, atol=1e-8)


def test_one_class_taken_out_is_the_moments_of_its_rows() -> None:
    rows, labels = _rows()
    moments = _streamed(rows.float(), labels, None, False, ROWS)
    alone = Moments(_pilot())
    alone.add(rows[labels == 2].float())
    own = moments.only(2)
    assert own.resolution == alone.resolution
    _assert_equal_moments(own, alone, 1e-5)
    own.add(rows.float())
    assert moments.weight[2] == (labels == 2).sum()  # it shares no memory


def _damaged(value: float) -> Tensor:
    rows = _rows()[0]
    rows[17, 3] = value
    return rows


GOOD, LABELS = _rows()
BAD_ROWS = {
    "nan": (_damaged(float("nan")), LABELS, None, "not finite"),
    "infinity": (_damaged(float("inf")), LABELS, None, "not finite"),
    "float32 overflow": (_damaged(-1e30).float(), LABELS, None, "beyond 1e\\+17"),
    "other width": (GOOD[:, 1:], LABELS, None, r"rows are \[R, 12\]"),
    "one row": (GOOD[0], LABELS[:1], None, r"not float64 \[12\]"),
    "integers": (GOOD.long(), LABELS, None, "floating-point"),
    "no labels": (GOOD, None, None, "as many integer labels, not nothing"),
    "too few labels": (GOOD, LABELS[1:], None, "as many integer labels"),
    "labels of floats": (GOOD, LABELS.float(), None, "as many integer labels"),
    "label too high": (GOOD, LABELS + 1, None, r"lie in \[0, 3\), but the rows have labels from 1 to 3"),
    "label too low": (GOOD, LABELS - 1, None, "labels from -1 to"),
    "negative weight": (GOOD, LABELS, _weights() - 1, "not negative"),
    "weight nan": (GOOD, LABELS, _weights() / _weights(), "finite"),
    "too few weights": (GOOD, LABELS, _weights()[1:], "as many weights"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
@POOLED
def test_unsound_rows_are_refused_and_add_nothing(case: str, pooled: bool) -> None:
    rows, labels, weights, message = BAD_ROWS[case]
    moments = _streamed(GOOD, LABELS, None, pooled, ROWS)
    before = {name: tensor.clone() for name, tensor in moments.tensors().items()}
    with pytest.raises(ValueError, match=message):
        moments.add(rows, labels=labels, weights=weights)
    assert all(torch.equal(before[name], tensor) for name, tensor in moments.tensors().items())


@pytest.mark.parametrize(
    ("targets", "weights", "message"),
    [
        (None, None, r"need targets \[\d+, 4\], not nothing"),
        (_targets(GOOD)[:, 1:], None, r"need targets \[\d+, 4\], not float64"),
        (_targets(GOOD) / 0, None, "targets hold values that are not finite"),
        (_targets(GOOD), -_weights(), "not negative"),
    ],
)
def test_unsound_targets_are_refused_and_add_nothing(
    targets: Tensor | None, weights: Tensor | None, message: str
) -> None:
    moments = Moments(_pilot(), targets=4)
    with pytest.raises(ValueError, match=message):
        moments.add(GOOD, targets=targets, weights=weights)
    assert not any(tensor.any() for name, tensor in moments.tensors().items() if name not in ("pilot", "double"))


def test_a_class_without_rows_is_named() -> None:
    moments = Moments(_pilot(), classes=CLASSES)
    moments.add(GOOD, labels=LABELS.clamp(max=1))
    for ask in (moments.mean, moments.covariance):
        with pytest.raises(ValueError, match="class 2 of 3 has no rows of positive weight"):
            ask()


def test_a_pooled_covariance_needs_rows_of_some_class_only() -> None:
    moments = Moments(_pilot(), classes=CLASSES, pooled=True)
    with pytest.raises(ValueError, match="no class has any rows"):
        moments.covariance()
    moments.add(GOOD, labels=torch.ones_like(LABELS))
    np.testing.assert_allclose(moments.covariance()[0], np.cov(GOOD.numpy().T, bias=True), rtol=1e-9, atol=1e-10)


def test_no_rows_add_nothing() -> None:
    moments, ridge = Moments(_pilot(), classes=CLASSES), Moments(_pilot(), targets=4)
    moments.add(GOOD[:0], labels=LABELS[:0])
    ridge.add(GOOD[:0], targets=GOOD[:0, :4], weights=_weights()[:0])
    assert (moments.total, ridge.total) == (0, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Moments(_pilot(), classes=0), "at least one class"),
        (lambda: Moments(GOOD.float()), r"one row \[d\], not float32"),
        (lambda: Moments(_pilot() / 0), "pilot mean holds values that are not finite"),
    ],
)
def test_moments_of_nothing_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_state_does_not_grow_with_the_rows() -> None:
    moments = Moments(_pilot(), classes=CLASSES, targets=4)
    sizes = set()
    for _ in range(3):
        moments.add(GOOD, labels=LABELS, targets=_targets(GOOD))
        sizes.add(sum(tensor.nbytes for tensor in moments.tensors().values()))
    assert len(sizes) == 1
