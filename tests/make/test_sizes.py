"""The input is chosen by objects, time and disk, and says why."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from detheads.backbones.spec import SPECS
from detheads.data import Category, Dataset, ImageRecord, Objects
from detheads.foundation.errors import UserError
from detheads.make.sizes import (
    CACHING_SHARE,
    MIRRORED_SHARE,
    Costs,
    InputChoice,
    Size,
    choose_input,
    possible_sides,
    wanted_side,
)

LITE = SPECS["effnet_lite0"]
PLENTY = 10**15


def _dataset(side: float, long: int = 1024, pictures: int = 400) -> Dataset:
    """Pictures ``long`` pixels wide with one square object each."""
    images = tuple(ImageRecord(i + 1, f"{i}.jpg", Path(f"{i}.jpg"), long, long // 2) for i in range(pictures))
    objects = Objects(np.array([[0, 0, side, side]]), np.zeros(1, np.int64), np.zeros(1, bool), np.array([side**2]))
    return Dataset("toy", "train", (Category(1, "thing"),), images, (objects,) * pictures)


def _costs(seconds_at_512: float) -> Callable[[Size], Costs]:
    return lambda size: Costs(seconds_at_512 * size[0] * size[1] / 512**2, size[0] * size[1])


def _choose(
    left: float, free: int = PLENTY, side: float = 64, val: int = 100, asked: Size | None = None
) -> InputChoice:
    return choose_input(LITE, _dataset(side), val, left, free, _costs(0.1), asked)


def test_small_objects_ask_for_large_inputs() -> None:
    sizes = [wanted_side(LITE, _dataset(side))[0] for side in (300, 80, 20)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_no_input_is_larger_than_the_pictures_need() -> None:
    assert wanted_side(LITE, _dataset(5, long=400))[0] == 512  # the smallest possible one that holds 400 pixels


@pytest.mark.parametrize("name", SPECS)
def test_every_backbone_takes_the_sides_to_choose_from(name: str) -> None:
    assert all(side % SPECS[name].multiple == 0 for side in possible_sides(SPECS[name]))


def test_less_time_gives_up_mirrored_pictures_then_size_then_pictures() -> None:
    choices = [_choose(left) for left in (math.inf, 200, 120, 40)]
    costs = [choice.train * (2 if choice.flips else 1) * choice.size[0] ** 2 for choice in choices]
    assert costs == sorted(costs, reverse=True)
    for left, choice in zip((math.inf, 200, 120, 40), choices, strict=True):
        assert choice.seconds <= left * CACHING_SHARE
    assert choices[-1].train < 400
    assert "of 400 training pictures" in choices[-1].why[-1]


@pytest.mark.parametrize(
    ("left", "flips", "whole"),
    [(91 / MIRRORED_SHARE, True, True), (89 / MIRRORED_SHARE, False, True), (49 / CACHING_SHARE, False, False)],
)
def test_mirrored_pictures_are_cached_where_they_leave_time_to_train(left: float, flips: bool, whole: bool) -> None:
    choice = choose_input(LITE, _dataset(400), 100, left, PLENTY, lambda size: Costs(0.1, 1), (512, 512))
    assert (choice.flips, choice.train == 400) == (flips, whole)  # 400 pictures and 100 that judge take 50 s, 90 with


def test_a_small_disk_is_told_and_obeyed() -> None:
    free = 300 * 512 * 512
    choice = _choose(math.inf, free)
    assert choice.bytes <= free
    assert any("of disk" in sentence for sentence in choice.why)


def test_what_the_user_asks_for_is_taken() -> None:
    choice = _choose(math.inf, asked=(384, 640))
    assert (choice.size, choice.why[0]) == ((384, 640), "384x640 (height x width) pixels: as asked for")
    assert "(" not in choice.name and " " not in choice.name


def test_a_budget_too_small_for_anything_says_what_is_needed() -> None:
    with pytest.raises(
        UserError, match=r"too small for anything: a picture takes .* s to cache .*; give at least \d+m"
    ):
        _choose(1.0)


def test_a_disk_too_small_for_anything_says_so() -> None:
    with pytest.raises(UserError, match=r"the disk has .* free, which is too little for any cache"):
        _choose(math.inf, free=1000)
