"""How long heads are trained in the time there is."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from detheads.cache.reader import FeatureCache
from detheads.make.contenders import useful_epochs
from detheads.make.contest import STARTING_SECONDS, choose_epochs
from detheads.make.request import Request

PICTURES = 400
STEPS = 50
USEFUL = useful_epochs(PICTURES)


@pytest.mark.parametrize(
    ("trainings", "epochs", "words"),
    [
        (math.inf, USEFUL, "to compare heads"),
        (3, USEFUL, "to compare heads"),
        (2, 2 * USEFUL, "there is time for one head, which is given all of it"),
        (1, USEFUL, "there is time for one head"),
        (0.5, USEFUL // 2, "longer than the"),
        (0, 1, "longer than the"),
    ],
)
def test_the_time_is_used_up_by_one_head_where_two_do_not_fit(
    trainings: float, epochs: int, words: str, request_for: Callable[..., Request]
) -> None:
    cache = cast("FeatureCache", range(PICTURES))  # its length is all that counts
    left = STARTING_SECONDS + trainings * USEFUL * STEPS * 1.3 * 0.1 + 0.01
    chosen, sentence = choose_epochs(request_for(Path()), cache, lambda: 0.1, left)
    assert chosen == epochs
    assert words in sentence
