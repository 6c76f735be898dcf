"""A large cache is read shard by shard, and mixed nearly as well as by a whole shuffle."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor

from detheads.foundation.errors import UserError
from detheads.training.batches import epoch_order
from detheads.training.config import TrainConfig
from detheads.training.shuffle import shuffled
from detheads.training.trainer import Trainer
from tests.training.world import World

Make = Callable[..., Trainer]

SHARDS, ROWS, WINDOW, BATCH = 200, 40, 20, 16
OF_IMAGE = torch.arange(SHARDS).repeat_interleave(ROWS)


def order(seed: int, window: float = WINDOW, shards: Tensor = OF_IMAGE) -> Tensor:
    return shuffled(shards, window, Generator().manual_seed(seed))


@pytest.mark.parametrize("window", [1, 1.5, WINDOW, SHARDS - 1, SHARDS, math.inf])
def test_every_image_comes_once_and_a_seed_repeats_the_order(window: float) -> None:
    first = order(3, window)
    assert torch.equal(first.sort().values, torch.arange(SHARDS * ROWS))
    assert torch.equal(first, order(3, window))
    assert not torch.equal(first, order(4, window))


def test_a_window_of_the_whole_cache_is_a_plain_permutation() -> None:
    """So that runs of earlier versions go on in their own order."""
    assert torch.equal(order(5, SHARDS), torch.randperm(SHARDS * ROWS, generator=Generator().manual_seed(5)))


def test_a_shard_is_read_within_a_run_of_the_window() -> None:
    taken = OF_IMAGE[order(0)]
    seams = 0
    for shard in range(SHARDS):
        places = (taken == shard).nonzero().flatten()
        pauses = torch.cat((places[1:], places[:1] + len(taken))) - places  # round the circle
        assert len(taken) - int(pauses.max()) < 1.2 * WINDOW * ROWS, shard
        seams += int(places[-1] - places[0]) > 2 * WINDOW * ROWS
    assert seams <= 1.2 * WINDOW


def test_a_batch_draws_from_the_window_alike_from_the_first_to_the_last() -> None:
    for seed in range(3):
        batches = OF_IMAGE[order(seed)].split(4 * WINDOW)
        distinct = [len(batch.unique()) for batch in batches]
        expected = WINDOW * (1 - math.exp(-4))
        assert min(distinct) > 0.75 * expected
        assert sum(distinct) / len(distinct) == pytest.approx(expected, rel=0.15)


def test_the_mean_of_a_batch_varies_as_little_as_the_window_promises() -> None:
    """Images of a shard are all alike, which is the worst case; measured against a whole shuffle."""
    values = torch.randn(SHARDS, generator=Generator().manual_seed(0), dtype=torch.float64)[OF_IMAGE]

    def spread(window: float) -> float:
        means = [batch.mean() for seed in range(12) for batch in values[order(seed, window)].split(BATCH)]
        return float(torch.stack(means).var())

    found, bound = spread(WINDOW) / spread(math.inf), 1 + (BATCH - 1) / WINDOW
    assert found == pytest.approx(bound, rel=0.08)
    assert spread(SHARDS // 2) / spread(math.inf) < 1.25


def test_other_images_meet_in_every_epoch() -> None:
    """Pairs that share a batch in two epochs are hardly more than with a whole shuffle."""

    def meet_again(window: float) -> float:
        pairs = 0
        for seed in range(6):
            batch_of = torch.empty(SHARDS * ROWS, dtype=torch.int64)
            batch_of[order(seed, window)] = torch.arange(SHARDS * ROWS) // BATCH
            for batch in order(seed + 100, window).split(BATCH):
                pairs += int((torch.bincount(batch_of[batch]) ** 2).sum()) - len(batch)
        return pairs / 2 / 6

    pairs = SHARDS * ROWS * (BATCH - 1) / 2
    assert meet_again(math.inf) == pytest.approx(pairs * BATCH / (SHARDS * ROWS), rel=0.2)
    # Two images of one shard (one pair in WINDOW) meet again within a run of the window.
    of_one_shard = pairs / WINDOW * BATCH / (WINDOW * ROWS)
    assert meet_again(WINDOW) < 1.3 * (pairs * BATCH / (SHARDS * ROWS) + of_one_shard)


def test_a_cache_within_the_window_is_shuffled_whole_and_a_larger_one_is_not(world: World) -> None:
    cache = world.cache("train")
    whole = epoch_order(TrainConfig(shuffle_window=0), cache, 0)
    assert epoch_order(TrainConfig(), cache, 0) == whole
    cache._places = [(index // 2, 0) for index in range(len(cache))]
    cache.manifest = cache.manifest.model_copy(update={"shards": cache.manifest.shards * 5})
    assert epoch_order(TrainConfig(), cache, 0) == whole
    windowed = epoch_order(TrainConfig(shuffle_window=2e-9 * cache.manifest.settings.bytes_per_image), cache, 0)
    assert windowed != whole
    assert sorted(index for indices, _ in windowed for index in indices) == list(range(len(cache)))


def test_another_window_is_another_training_and_one_that_changes_nothing_is_not(trainer: Make) -> None:
    run = trainer(epochs=1, shuffle_window=0).fit().run
    assert "shuffle_window" not in (run / "config.json").read_text()  # as earlier versions wrote it
    assert trainer(epochs=1).fit().run == run
    with pytest.raises(UserError, match=r"was trained with --shuffle-window 0, now 1e-05; give the same"):
        trainer(epochs=1, shuffle_window=1e-5)
    trainer(run="small", epochs=1, shuffle_window=1e-5).fit()
    with pytest.raises(UserError, match=r"was trained with --shuffle-window 1e-05, now 0; give the same"):
        trainer(run="small", epochs=1)


@pytest.mark.parametrize("window", [-1.0, math.nan, math.inf])
def test_a_window_that_is_none_is_refused(window: float) -> None:
    with pytest.raises(UserError, match="shuffle_window must be 0 or more"):
        TrainConfig(shuffle_window=window)
