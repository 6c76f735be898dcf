"""One way to time: contenders take turns, the first rounds are left out, medians are compared.

A shared machine changes its speed within seconds, so that a baseline which was measured before or after says little.
Medians are not moved by the one round in which another program woke up.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median

Contender = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of each contender, one value a measured round."""

    seconds: Mapping[str, tuple[float, ...]]

    @property
    def rounds(self) -> int:
        """How many rounds were measured."""
        return min((len(values) for values in self.seconds.values()), default=0)

    def median(self, name: str) -> float:
        """Median seconds of a contender."""
        return median(self.seconds[name])

    def ratio(self, name: str, *, baseline: str) -> float:
        """Median seconds of ``name`` over those of ``baseline``: above 1 it takes longer."""
        return self.median(name) / self.median(baseline)

    def paired_ratio(self, name: str, *, baseline: str) -> float:
        """Median over the rounds of a contender's seconds over the baseline's in the same round: slow seconds of the
        machine count for both, which matters where the ratio is near 1."""
        return median(one / other for one, other in zip(self.seconds[name], self.seconds[baseline], strict=True))


def take_turns(
    rounds: Iterable[Mapping[str, Contender]],
    *,
    warm_up: int = 1,
    pause: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time every contender once a round.

    Args:
        rounds: for each round the contenders by name; made one by one, outside the measured time. Every other round
            goes backwards, so that no contender always finds what another left in the processor's caches.
        warm_up: how many rounds run first and are left out.
        pause: seconds of rest before each contender: libraries keep their threads spinning for a moment after a run,
            which would take time from the next contender, and a machine that gets hot slows down.
        clock: seconds from any moment on.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    for number, contenders in enumerate(rounds):
        for name in list(contenders)[:: 1 if number % 2 == 0 else -1]:
            if pause:
                time.sleep(pause)
            started = clock()
            contenders[name]()
            took = clock() - started
            if number >= warm_up:
                seconds[name].append(took)
    return Timing({name: tuple(values) for name, values in seconds.items()})
