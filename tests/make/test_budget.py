"""How a time is said."""

import math

import pytest

from detheads.foundation.errors import UserError
from detheads.make.budget import parse_budget, span


@pytest.mark.parametrize(
    ("text", "seconds"), [("10m", 600), ("1h", 3600), ("1h30m", 5400), ("90s", 90), (" 2H ", 7200), ("best", math.inf)]
)
def test_times_as_people_write_them(text: str, seconds: float) -> None:
    budget = parse_budget(text)
    assert budget.seconds == seconds
    assert budget.limited == (text != "best")


@pytest.mark.parametrize("text", ["", "ten minutes", "10", "-5m", "0m", "1m1h", "1.5h", "9999999h"])
def test_anything_else_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UserError, match="--budget takes a time such as 10m"):
        parse_budget(text)


@pytest.mark.parametrize(("seconds", "text"), [(45, "45 s"), (600, "10 minutes"), (9000, "2.5 hours")])
def test_times_for_a_reader(seconds: float, text: str) -> None:
    assert span(seconds) == text
