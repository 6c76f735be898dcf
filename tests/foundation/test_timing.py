"""Contenders take turns under a clock that the test sets."""

import time
from collections.abc import Callable, Iterator

import pytest

from detheads.foundation.timing import take_turns


class Machine:
    """A clock that goes on only while somebody works, and what was worked on."""

    def __init__(self) -> None:
        self.now, self.turns = 100.0, list[str]()

    def work(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.turns.append(name)
            self.now += seconds

        return run

    def clock(self) -> float:
        return self.now


def test_contenders_take_turns_and_every_other_round_goes_backwards() -> None:
    machine = Machine()
    pair = {"ours": machine.work("ours", 2), "baseline": machine.work("baseline", 1)}
    assert take_turns([pair] * 4, warm_up=1, clock=machine.clock).rounds == 3
    assert machine.turns == ["ours", "baseline", "baseline", "ours"] * 2


def test_warm_up_rounds_are_run_and_left_out() -> None:
    machine = Machine()
    rounds = [{"ours": machine.work("ours", seconds)} for seconds in (500, 300, 3, 4, 8)]
    timing = take_turns(rounds, warm_up=2, clock=machine.clock)
    assert len(machine.turns) == 5
    assert timing.seconds == {"ours": (3, 4, 8)}


def test_one_slow_round_moves_neither_median_nor_ratio() -> None:
    machine = Machine()
    rounds = [
        {"ours": machine.work("ours", ours), "baseline": machine.work("baseline", 2)} for ours in (3, 3, 3, 900, 3, 3)
    ]
    timing = take_turns(rounds, clock=machine.clock)
    assert timing.median("ours") == 3
    assert timing.ratio("ours", baseline="baseline") == pytest.approx(1.5)
    assert timing.ratio("baseline", baseline="ours") == pytest.approx(2 / 3)


def test_what_slows_a_whole_round_down_leaves_the_ratio_within_rounds() -> None:
    machine = Machine()
    rounds = [
        {"ours": machine.work("ours", 1.25 * slow), "baseline": machine.work("baseline", slow)} for slow in (1, 8, 4, 2)
    ]
    timing = take_turns(rounds, warm_up=0, clock=machine.clock)
    assert timing.paired_ratio("ours", baseline="baseline") == 1.25


def test_rest_before_a_turn_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    monkeypatch.setattr(time, "sleep", lambda seconds: machine.work("rest", seconds)())
    timing = take_turns([{"ours": machine.work("ours", 2)}] * 2, warm_up=0, pause=5, clock=machine.clock)
    assert machine.turns == ["rest", "ours"] * 2
    assert timing.seconds == {"ours": (2, 2)}


def test_making_a_round_is_not_timed() -> None:
    machine = Machine()

    def rounds() -> Iterator[dict[str, Callable[[], None]]]:
        for _ in range(3):
            machine.now += 1000
            yield {"ours": machine.work("ours", 1)}

    assert take_turns(rounds(), clock=machine.clock).seconds == {"ours": (1, 1)}
