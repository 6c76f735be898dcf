"""Results computed ahead: in order, as many as asked for, and never after their user has gone."""

import threading
import time
from collections.abc import Iterator

import pytest

from detheads.foundation.ahead import map_ahead


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.02 if item % 3 == 0 else 0)
        return item * item

    assert list(map_ahead(slow_first, range(10), ahead=4, threads=threads)) == [item * item for item in range(10)]
    assert list(map_ahead(slow_first, [], ahead=4, threads=threads)) == []


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_no_more_is_taken_than_asked_for(ahead: int) -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(20):
            taken.append(item)
            yield item

    for used, result in enumerate(map_ahead(str, items(), ahead=ahead)):
        assert result == str(used)
        assert len(taken) == min(used + 1 + ahead, 20)


def test_the_next_results_are_computed_while_one_is_used() -> None:
    computed = [threading.Event() for _ in range(4)]
    results = map_ahead(lambda item: computed[item].set(), range(4), ahead=2)
    next(results)
    assert computed[1].wait(10)
    assert computed[2].wait(10)
    assert not computed[3].is_set()


def test_several_threads_work_at_a_time() -> None:
    together = threading.Barrier(3)
    results = map_ahead(lambda item: together.wait(10), range(3), ahead=3, threads=3)
    assert sorted(results) == [0, 1, 2]


def test_an_error_comes_where_its_result_would_have_come() -> None:
    def fails_at_two(item: int) -> int:
        if item == 2:
            raise KeyError(item)
        return item

    results = map_ahead(fails_at_two, range(9), ahead=5, threads=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError):
        next(results)
    assert list(results) == []


def test_nothing_is_begun_and_no_thread_lives_when_the_user_has_gone() -> None:
    begun = []
    before = threading.active_count()

    def slowly(item: int) -> int:
        begun.append(item)
        time.sleep(0.05)
        return item

    results = map_ahead(slowly, range(100), ahead=50)
    next(results)
    results.close()  # type: ignore[attr-defined]  # a generator
    count = len(begun)
    assert count <= 3
    assert threading.active_count() == before
    time.sleep(0.1)
    assert len(begun) == count
