"""How many of the most harmful blocks return to higher precision: as few as the judge lets pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detheads.export.precision.plan import Verdict


@dataclass(frozen=True)
class Step:
    """One candidate that was judged on all images.

    Attributes:
        returned: blocks in higher precision.
        layers: layers in INT8.
        share: the same as a share of those that may be.
        ap: 0..1.
    """

    returned: int
    layers: int
    share: float
    ap: float
    passed: bool
    reasons: list[str]

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def fewest(last: int, judge: Callable[[int], Verdict]) -> int | None:
    """The smallest number of returned blocks that passes, from 0 to ``last``; None when none does.

    Doubling steps, then bisection between the last refusal and the first that passes: about ``2 log2(last)``
    judgements, each of which runs all images. It takes for granted that what passes with few passes with more.
    """
    low, high = -1, 0
    while not judge(high).passed:
        if high == last:
            return None
        low, high = high, min(max(1, 2 * high), last)
    while high - low > 1:
        middle = (low + high) // 2
        if judge(middle).passed:
            high = middle
        else:
            low = middle
    return high
