"""How large the model's input is, whether mirrored pictures are cached, and how many pictures are used.

Time and disk are known: what a picture costs at each size was measured, and the features' bytes follow from the shapes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from detheads.backbones.spec import BackboneSpec
from detheads.data import Dataset
from detheads.foundation.atomic import sized
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import sides
from detheads.make.budget import span
from detheads.make.look import SMALL_SHARE, longest_sides, object_shares

Size = tuple[int, int]
"""Height and width in pixels."""
SIDES = (320, 384, 512, 640, 768)
"""Input sides to choose from; the nearest multiples that the backbone takes."""
WANTED_SIDE = 160.0
"""Pixels from which on objects gain nothing by a larger input: on raccoon, a tenth of whose objects is smaller than a
third of the picture, 512 pixels (173 of them) are worth up to 4 AP over 384 (130 of them)."""
CACHING_SHARE = 0.35
"""Of the budget that caching may take; training needs the most of the rest."""
MIRRORED_SHARE = 0.25
"""The same with mirrored pictures, for which turned features do two thirds as well (docs/features.md). In ten minutes,
a third of them spent on such a cache, aquarium reached AP 0.137 in 5 epochs, and 0.184 in 8 without one."""
DISK_SHARE = 0.9
"""Of the free disk that the caches may fill."""
FEWEST_PICTURES = 20
"""A budget in which fewer pictures can be cached is too small for anything."""
FEWEST_JUDGES, JUDGES_SHARE = 100, 0.2
"""Pictures to judge by where not all can be used: as many, and at least this share of all that are."""


@dataclass(frozen=True)
class InputChoice:
    """What is cached.

    Attributes:
        size: height and width of the input in pixels.
        flips: whether mirrored training pictures are cached, too.
        train, val: pictures to use of each split.
        picture_seconds: that a picture takes to be cached once, measured.
        seconds, bytes: what the caches will take.
        why: sentences.
    """

    size: tuple[int, int]
    flips: bool
    train: int
    val: int
    picture_seconds: float
    seconds: float
    bytes: int
    why: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the folder that everything made of these features lies in."""
        return f"{self.size[0]}x{self.size[1]}px-{self.train}-pictures" + ("-mirrored" if self.flips else "")


@dataclass(frozen=True)
class Costs:
    """What a picture costs at an input size: seconds and bytes, without its mirror image."""

    seconds: float
    bytes: int


def possible_sides(spec: BackboneSpec) -> list[int]:
    """The sides to choose from, as multiples that the backbone takes."""
    return sorted({max(spec.multiple, round(side / spec.multiple) * spec.multiple) for side in SIDES})


def wanted_side(spec: BackboneSpec, train: Dataset) -> tuple[int, str]:
    """The side that the objects ask for, and why."""
    possible = possible_sides(spec)
    shares, longest = object_shares(train), float(np.quantile(longest_sides(train), 0.9))
    small = float(np.quantile(shares, SMALL_SHARE))
    needed = next((side for side in possible if side * small >= WANTED_SIDE), possible[-1])
    most = next((side for side in possible if side >= longest), possible[-1])
    reason = f"a tenth of the objects is smaller than {small:.0%} of the picture's longer side"
    if needed > most:
        return most, f"{reason}, and the pictures' own size, about {longest:.0f} pixels, shows all that there is"
    return needed, f"{reason}, which is {needed * small:.0f} pixels at this size and gains nothing by more"


def choose_input(
    spec: BackboneSpec,
    train: Dataset,
    val: int,
    left: float,
    free: int,
    costs: Callable[[Size], Costs],
    asked: Size | None = None,
) -> InputChoice:
    """The largest input up to the wanted one that time and disk allow, with mirrored pictures where they do, too.

    Args:
        val: pictures to judge by, beyond those of ``train``.
        left: seconds of the budget that are left; infinite without a limit.
        free: bytes of the disk.
        costs: measures an input of some height and width.
        asked: the only input, where the user has chosen.

    Raises:
        UserError: when not even a few pictures of the smallest input can be cached.
    """
    if asked is not None:
        sizes, wanted, reason = [asked], asked, "as asked for"
    else:
        side, reason = wanted_side(spec, train)
        wanted, sizes = (side, side), [(each, each) for each in possible_sides(spec) if each <= side][::-1]
    plain, mirrored = (Limits(left * share, free * DISK_SHARE) for share in (CACHING_SHARE, MIRRORED_SHARE))
    count = len(train.images)
    why = [f"{sides(*wanted)} pixels: {reason}"]
    for size, flips in [(size, flips) for size in sizes for flips in (True, False)]:
        cost, views = costs(size), count * (2 if flips else 1) + val
        seconds, stored = views * cost.seconds, views * cost.bytes
        if (beyond := (mirrored if flips else plain).exceeded(seconds, stored)) is None:
            if size != wanted:
                why.append(f"so it is {sides(*size)} pixels")
            if flips:
                why.append("mirrored training pictures are cached, too, which makes twice as many to learn from")
            else:
                why.append("half of the pictures are learned from with their features turned from left to right")
            return InputChoice(size, flips, count, val, cost.seconds, seconds, stored, tuple(why))
        what = f"{sides(*size)} pixels {'with' if flips else 'without'} mirrored pictures"
        why.append(f"{what} would take {span(seconds)} and {sized(stored)}, more than {beyond}")
    return _part_of_pictures(sizes[-1], count, val, plain, costs(sizes[-1]), why)


@dataclass(frozen=True)
class Limits:
    """What caching may take, in seconds and bytes."""

    seconds: float
    bytes: float

    def exceeded(self, seconds: float, stored: int) -> str | None:
        """The limit that something is beyond, in words."""
        if seconds > self.seconds:
            return f"the {span(self.seconds)} for caching"
        return f"the {sized(int(self.bytes))} of disk" if stored > self.bytes else None


def _part_of_pictures(size: Size, count: int, val: int, limits: Limits, cost: Costs, why: Sequence[str]) -> InputChoice:
    """As many pictures as can be cached, without their mirror images."""
    by_time, by_disk = limits.seconds / cost.seconds, limits.bytes / cost.bytes
    possible = int(min(by_time, by_disk))
    judges = min(val, max(FEWEST_JUDGES, int(possible * JUDGES_SHARE)), possible // 2)
    learned = min(count, possible - judges)
    if learned < min(count, FEWEST_PICTURES):
        views = FEWEST_PICTURES * 2 * (1 if val else 0.5)
        if by_disk < by_time:
            raise UserError(
                f"the disk has {sized(int(limits.bytes / DISK_SHARE))} free, which is too little for any cache: "
                f"{views:.0f} pictures at {sides(*size)} take {sized(int(views * cost.bytes))}; free some space, or "
                "choose a folder on another disk with --work."
            )
        raise UserError(
            f"the budget is too small for anything: a picture takes {cost.seconds:.2f} s to cache at {sides(*size)} "
            f"here (measured), so that fewer than {FEWEST_PICTURES} could be learned from; give at least "
            f"{views * cost.seconds / CACHING_SHARE / 60 + 1:.0f}m."
        )
    part = (
        f"{learned:,} of {count:,} training pictures{f' and {judges:,} of {val:,} to judge by' if val else ''} are "
        "used, without mirrored ones, of all classes alike"
    )
    views = learned + judges
    return InputChoice(
        size, False, learned, judges, cost.seconds, views * cost.seconds, views * cost.bytes, (*why, part)
    )
