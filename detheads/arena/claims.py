"""What an idea gains: a head beside the same head with the idea turned off, seed by seed.

Both sides train with the same seeds, so the differences are paired. The interval of their mean is Student's t at 95 %;
over several domains it is that of the mean of their means, with the degrees of freedom of Welch and Satterthwaite. All
gains are shares of what the control reaches, so that domains can be put together and one rule holds for every metric; a
gain is positive where the idea is better, and so where it makes fewer false detections.

- A claim **stands** when the whole interval lies above what the claim allows to be lost (nothing, for most).
- It **falls** when the whole interval lies below a gain worth having (``WORTH``), or, where something may be lost,
  below that.
- Everything else is **undecided**, as are a single seed, a side that failed, and a control that reaches 0.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev, variance
from typing import Any, Literal

from scipy import stats

from detheads.arena.records import ControlOf, Row

CONFIDENCE = 0.95
WORTH = 0.02
"""A gain of less than this share of what the control reaches is none worth having: half a point at an AP of 0.25, which
is what two seeds of one head are easily apart."""
FEWER_IS_BETTER = ("false_detections",)
DIGITS: Mapping[str, int] = {"false_detections": 2}
"""Of a metric as it is told; others are shares, with three."""
TITLES: Mapping[str, str] = {"false_detections": "false detections", "precision": "precision at half recall"}

Verdict = Literal["stands", "falls", "undecided"]


@dataclass(frozen=True)
class Sides:
    """A head and its control on one domain.

    Attributes:
        seeds: with which both were trained; those of ``with_idea`` and ``without``, in this order.
        with_idea, without: the metric of each seed; empty where there is nothing to compare.
        lacking: why, in a phrase; empty otherwise.
    """

    seeds: tuple[int, ...] = ()
    with_idea: tuple[float, ...] = ()
    without: tuple[float, ...] = ()
    lacking: str = ""


@dataclass(frozen=True)
class Claim:
    """A claim and what became of it.

    Attributes:
        control: the head, the idea, what it is said to gain, and how it was turned off.
        sides: by domain.
        gain: mean of the paired differences as a share of what the control reaches; None where it is not known.
        spread: sample standard deviation of these differences, over the seeds of all domains; None for one seed.
        low, high: ends of the 95 % interval of ``gain``; None for one seed.
        verdict: see the rule of this module; ``why`` says what it rests on, in a phrase.
        alone: the claim on each domain by itself, where there are several.
    """

    control: ControlOf
    sides: Mapping[str, Sides]
    gain: float | None
    spread: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    why: str
    alone: Mapping[str, "Claim"] = field(default_factory=dict)

    @property
    def seeds(self) -> int:
        """Pairs on each domain."""
        return max(len(sides.seeds) for sides in self.sides.values())

    def mean(self, *, with_idea: bool) -> float | None:
        """The metric of one side, the mean over seeds and domains; None where it is not known."""
        values = [sides.with_idea if with_idea else sides.without for sides in self.sides.values()]
        return fmean(map(fmean, values)) if all(values) else None

    def told(self) -> str:
        """Two sentences: what is claimed, and what became of it."""
        title = TITLES.get(self.control.metric, self.control.metric)
        said = f"{self.control.head}, {self.control.idea}: {self.control.claim}"
        on, off = self.mean(with_idea=True), self.mean(with_idea=False)
        if self.gain is None or on is None or off is None:
            return f"{said} {self.verdict.capitalize()}: {self.why}."
        digits = DIGITS.get(self.control.metric, 3)
        reached = f"{title} {on:.{digits}f} with it and {off:.{digits}f} without it"
        where = f" on {len(self.sides)} domains" if len(self.sides) > 1 else ""
        seeds = f"{self.seeds} seed{'s' if self.seeds > 1 else ''}{where}"
        if self.low is None or self.high is None:
            return f"{said} {self.verdict.capitalize()}: {reached} over {seeds}; {self.why}."
        interval = f"a gain of {self.gain:+.1%}, 95 % interval {self.low:+.1%} to {self.high:+.1%}"
        return f"{said} {self.verdict.capitalize()}: {reached} over {seeds}, {interval}; {self.why}."

    def to_dict(self) -> dict[str, Any]:
        """JSON values; None where something is not known."""
        return {
            **self.control.model_dump(),
            "domains": {
                domain: {
                    "seeds": list(sides.seeds),
                    "with_idea": list(sides.with_idea),
                    "without": list(sides.without),
                    "lacking": sides.lacking or None,
                    "alone": self.alone[domain].outcome() if domain in self.alone else None,
                }
                for domain, sides in self.sides.items()
            },
            **self.outcome(),
        }

    def outcome(self) -> dict[str, Any]:
        """JSON values of what became of it."""
        return {
            "with_idea": self.mean(with_idea=True),
            "without": self.mean(with_idea=False),
            "gain": self.gain,
            "spread": self.spread,
            "low": self.low,
            "high": self.high,
            "verdict": self.verdict,
            "why": self.why,
        }


def claims_of(rows: Mapping[str, Iterable[Row]]) -> list[Claim]:
    """The claims whose head and control both have a row on every domain, in the order of heads and ideas.

    Args:
        rows: of an arena, by domain; one domain of any name for a single arena.
    """
    by_name = {domain: {row.head: row for row in each} for domain, each in rows.items()}
    controls = {row.head: row.control for each in by_name.values() for row in each.values() if row.control is not None}
    found = []
    for name, control in sorted(controls.items()):
        pairs = {domain: (each.get(control.head), each.get(name)) for domain, each in by_name.items()}
        there = {domain: (head, other) for domain, (head, other) in pairs.items() if head and other}
        if len(there) == len(by_name):
            sides = {domain: _sides(head, other, control.metric) for domain, (head, other) in there.items()}
            several = len(sides) > 1
            alone = {domain: _judged(control, {domain: each}) for domain, each in sides.items()} if several else {}
            found.append(replace(_judged(control, sides), alone=alone))
    return found


def _sides(head: Row, control: Row, metric: str) -> Sides:
    for row in (head, control):
        if row.status != "done":
            return Sides(lacking=f"{row.head} {row.status}")
    mine, others = _by_seed(head, metric), _by_seed(control, metric)
    seeds = tuple(seed for seed in mine if seed in others)
    undefined = [seed for seed in seeds if mine[seed] is None or others[seed] is None]
    if undefined:
        title = TITLES.get(metric, metric)
        return Sides(lacking=f"{title} is undefined with seed {undefined[0]}")
    values = [(a, b) for seed in seeds if (a := mine[seed]) is not None and (b := others[seed]) is not None]
    return Sides(seeds, tuple(a for a, _ in values), tuple(b for _, b in values))


def _by_seed(row: Row, metric: str) -> dict[int, float | None]:
    return {each.seed: each.metrics.get(metric) for each in row.seeds}


def _judged(control: ControlOf, sides: Mapping[str, Sides]) -> Claim:
    def undecided(why: str, gain: float | None = None) -> Claim:
        return Claim(control, sides, gain, None, None, None, "undecided", why)

    for domain, each in sides.items():
        where = f" on {domain}" if len(sides) > 1 else ""
        if each.lacking:
            return undecided(f"{each.lacking}{where}")
        if not fmean(each.without):
            return undecided(f"the control reaches 0{where}, beside which nothing can be measured")
    gains = [_gains(each, control.metric) for each in sides.values()]
    gain = fmean(map(fmean, gains))
    if any(len(each) < 2 for each in gains):
        return undecided("one seed has no spread, so nothing tells the gain from chance", gain)
    low, high = _interval(gains, gain)
    bar = -control.allowance
    limit = bar if control.allowance else WORTH
    verdict: Verdict
    if low > bar:
        above = f"a loss of {control.allowance:.0%}" if control.allowance else "0"
        verdict, why = "stands", f"the whole interval lies above {above}"
    elif high <= limit:
        below = f"the {control.allowance:.0%} that may be lost" if control.allowance else f"a gain of {WORTH:.0%}"
        verdict, why = "falls", f"the whole interval lies below {below}"
    else:
        verdict, why = "undecided", "the interval holds both: more seeds would narrow it"
    return Claim(control, sides, gain, _spread(gains), low, high, verdict, why)


def _gains(sides: Sides, metric: str) -> list[float]:
    """Of each seed, as a share of what the control reaches in the mean."""
    base = fmean(sides.without) * (-1 if metric in FEWER_IS_BETTER else 1)
    return [(on - off) / base for on, off in zip(sides.with_idea, sides.without, strict=True)]


def _interval(gains: Sequence[Sequence[float]], mean: float) -> tuple[float, float]:
    """Of the mean of the means; a point where all seeds gave the same."""
    parts = [variance(each) / len(each) / len(gains) ** 2 for each in gains]
    total = sum(parts)
    if not total:
        return mean, mean
    freedom = total**2 / sum(part**2 / (len(each) - 1) for part, each in zip(parts, gains, strict=True))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(total)
    return mean - half, mean + half


def _spread(gains: Sequence[Sequence[float]]) -> float:
    """Standard deviation of the gains around the mean of their domain."""
    return math.sqrt(fmean(stdev(each) ** 2 for each in gains))
