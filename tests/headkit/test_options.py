"""Options are what their annotations say, whether they come as values or as text."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from detheads.headkit.options import Share, allowed, convert

FAMILY = Literal["haar", "db2"]
EIGHTS = Annotated[int, Field(multiple_of=8)]
FEW = Annotated[int, Field(ge=2, lt=9)]


@pytest.mark.parametrize(
    ("annotation", "value", "converted"),
    [
        (int, "-7", -7),
        (int, 7, 7),
        (PositiveInt, "1", 1),
        (NonNegativeInt, 0, 0),
        (float, "1e-3", 0.001),
        (float, 2, 2.0),
        (Share, "1", 1.0),
        (bool, "true", True),
        (bool, "False", False),
        (bool, False, False),
        (FAMILY, "db2", "db2"),
        (str, "anything", "anything"),
    ],
)
def test_what_is_allowed_becomes_a_value_of_the_type(annotation: Any, value: object, converted: object) -> None:
    found = convert(annotation, value)
    assert found == converted
    assert type(found) is type(converted)


@pytest.mark.parametrize(
    ("annotation", "words", "values"),
    [
        (int, "a whole number", ["x", "", "1.5", 1.0, True, None]),
        (PositiveInt, "a whole number above 0", [0, "0", -3, "x"]),
        (NonNegativeInt, "a whole number of 0 or more", [-1, "-1"]),
        (EIGHTS, "a whole number that is a multiple of 8", [12, "1"]),
        (FEW, "a whole number of 2 or more below 9", [1, 9, "9"]),
        (float, "a number", ["nan", "inf", float("nan"), True, None]),
        (Share, "a number from 0 to 1", [1.01, "-0.01", "nan"]),
        (PositiveFloat, "a number above 0", [0.0, "-1"]),
        (bool, "true or false", ["perhaps", 0, 1, None]),
        (FAMILY, "one of haar, db2", ["db3", "", 2, None]),
        (str, "text", [3, None]),
    ],
)
def test_anything_else_is_refused_with_what_is_allowed(annotation: Any, words: str, values: list[object]) -> None:
    assert allowed(annotation) == words
    for value in values:
        with pytest.raises(ValueError, match=f"^must be {words}, not "):
            convert(annotation, value)
