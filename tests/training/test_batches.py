"""Batches come in order from several threads, on their device, with what the head wants to know of their objects."""

import threading
import time
from contextlib import nullcontext
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch
from torch import Tensor

from detheads.cache.reader import FeatureCache
from detheads.foundation.errors import UserError
from detheads.targets.objects import TargetBatch
from detheads.training.batches import BatchReader, Chosen, default_readers, read_batches
from tests.training.world import World

ORDER: list[Chosen] = [([index, (index + 1) % 10], [False, index % 2 == 1]) for index in range(8)]
SLOW = 0.03
"""Seconds that a slowed reader takes for a batch."""


@pytest.fixture
def cache(world: World) -> FeatureCache:
    return world.cache("train")


def slowed(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch, seconds: float = SLOW) -> list[str]:
    """Each batch of the cache takes so much longer to read; names of the threads that read, one a batch."""
    stored, threads = cache.stored, []

    def read(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.current_thread().name)
        time.sleep(seconds)
        return stored(*arguments, **options)

    monkeypatch.setattr(cache, "stored", read)
    return threads


@pytest.mark.parametrize("readers", [1, 3])
def test_what_the_matcher_says_travels_with_the_batch(cache: FeatureCache, readers: int) -> None:
    asked: list[int] = []

    def matcher(targets: TargetBatch) -> dict[str, Tensor]:
        asked.append(threading.get_ident())
        return {"areas": (targets.boxes[:, 2:] - targets.boxes[:, :2]).prod(1)}

    batches = list(read_batches(cache, ORDER, matcher=matcher, readers=readers))
    assert len(batches) == len(asked) == len(ORDER)
    assert threading.get_ident() not in asked
    for (indices, flips), batch in zip(ORDER, batches, strict=True):
        mine = TargetBatch.of(cache.targets(index, flip) for index, flip in zip(indices, flips, strict=True))
        assert torch.equal(batch.targets.boxes, mine.boxes)
        assert torch.equal(batch.targets.images, mine.images)
        assert torch.equal(batch.targets.prepared["areas"], matcher(mine)["areas"])
        for name, values in cache.features(indices, flips).items():
            assert torch.equal(batch.features[name], values)


def test_waiting_is_counted_where_reading_is_slower_than_its_user(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowed(cache, monkeypatch)
    starved = read_batches(cache, ORDER, readers=1)
    began = time.perf_counter()
    assert len(list(starved)) == len(ORDER)
    assert 0.8 * len(ORDER) * SLOW < starved.waited <= time.perf_counter() - began
    fed = read_batches(cache, ORDER, readers=1)
    next(fed)
    first = fed.waited
    for _ in fed:
        time.sleep(3 * SLOW)
    assert first > 0.8 * SLOW
    assert fed.waited - first < len(ORDER) * SLOW / 2


def test_readers_read_at_the_same_time(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    together, stored = threading.Barrier(4), cache.stored

    def read(*arguments: Any, **options: Any) -> Any:
        together.wait(20)
        return stored(*arguments, **options)

    monkeypatch.setattr(cache, "stored", read)
    assert len(list(read_batches(cache, ORDER, readers=4))) == len(ORDER)


@pytest.mark.parametrize("readers", [1, 2])
def test_no_more_than_a_few_batches_are_held_and_none_is_read_when_the_user_has_gone(
    cache: FeatureCache, readers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = slowed(cache, monkeypatch, 0.0)
    before = threading.active_count()
    batches: BatchReader | None = read_batches(cache, ORDER, readers=readers)
    assert batches is not None
    next(batches)
    time.sleep(0.1)
    assert len(begun) == readers + 2  # the one that is used, and two that are ready besides those of the other readers
    batches = None
    time.sleep(0.1)
    assert threading.active_count() == before
    assert len(begun) == readers + 2


def test_what_goes_wrong_in_a_reader_is_told_where_its_batch_would_have_come(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = cache.stored

    def read(indices: list[int], *arguments: Any, **options: Any) -> Any:
        if indices == ORDER[2][0]:
            raise UserError("the shard is damaged.")
        return stored(indices, *arguments, **options)

    monkeypatch.setattr(cache, "stored", read)
    batches = read_batches(cache, ORDER, readers=2)
    assert [next(batches), next(batches)]
    with pytest.raises(UserError, match="damaged"):
        next(batches)


def test_half_of_the_cores_read(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for cores in (1, 2, 3, 8, 64):
        monkeypatch.setattr("detheads.training.batches.available_cores", lambda cores=cores: cores)
        found.append(default_readers())
    assert found == [1, 1, 1, 4, 8]


def test_on_another_device_rows_arrive_as_they_are_stored_and_become_float32_there(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[torch.dtype] = []
    to = Tensor.to

    def spy(self: Tensor, *arguments: Any, **options: Any) -> Tensor:
        if torch.device("meta") in arguments:
            moved.append(self.dtype)
        return to(self, *arguments, **options)

    monkeypatch.setattr(Tensor, "to", spy)
    for batch in read_batches(cache, ORDER[:2], device=torch.device("meta")):
        for name, values in cache.features(ORDER[0][0]).items():
            assert (batch.features[name].device.type, batch.features[name].dtype) == ("meta", torch.float32)
            assert batch.features[name].shape == values.shape
        assert {batch.targets.boxes.device.type, batch.targets.images.device.type} == {"meta"}
    layers = len(cache.feature_spec.names)
    assert moved.count(torch.float16) == 2 * layers
    assert moved.count(torch.float32) == 2  # the boxes


def test_a_gpu_is_fed_beside_its_computation_from_pinned_memory(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imitated with CUDA's own classes: copies are queued on a stream of their own, and the computation's stream waits
    for them, without any wait of the program's."""
    happened: list[str] = []
    events = [create_autospec(torch.cuda.Event, instance=True) for _ in range(2)]
    copying, computing = (create_autospec(torch.cuda.Stream, instance=True) for _ in range(2))
    copying.record_event.side_effect = list(events)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: copying)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: happened.append("queue") or nullcontext())  # type: ignore[func-returns-value]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: happened.append(f"kept {stream is computing}"))
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: happened.append("pinned") or self)  # type: ignore[func-returns-value]
    to, stored = Tensor.to, cache.stored

    def copy(self: Tensor, *arguments: Any, **options: Any) -> Tensor:
        if torch.device("cuda") not in arguments:
            return to(self, *arguments, **options)
        assert options == {"non_blocking": True}
        happened.append("copied")
        return to(self, torch.device("meta"))

    def pinned(*arguments: Any, pin: bool) -> Any:
        happened.append(f"read pinned {pin}")
        return stored(*arguments)

    monkeypatch.setattr(Tensor, "to", copy)
    monkeypatch.setattr(cache, "stored", pinned)
    found = list(read_batches(cache, ORDER[:2], device=torch.device("cuda"), readers=1))
    assert [batch.features[cache.feature_spec.main[0]].device.type for batch in found] == ["meta", "meta"]
    tensors = len(cache.feature_spec.names) + 4  # boxes, labels, images, places
    assert happened.count("read pinned True") == happened.count("queue") == 2
    assert happened.count("copied") == happened.count("kept True") == 2 * tensors
    assert happened.count("pinned") == 2 * 4
    assert [call.args[0] for call in computing.wait_event.call_args_list] == events
    assert not any(stream.synchronize.called for stream in (copying, computing))
    assert not any(event.synchronize.called or event.wait.called for event in events)


def test_readers_take_no_core_from_the_step_they_read_for(cache: FeatureCache) -> None:
    threads: list[int] = []

    def matcher(targets: TargetBatch) -> dict[str, torch.Tensor]:
        threads.append(torch.get_num_threads())
        return {}

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert len(list(read_batches(cache, ORDER, matcher=matcher, readers=2))) == len(ORDER)
        assert (set(threads), torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)
