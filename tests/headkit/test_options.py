"""Options are what their annotations say, whether they come as values or as text."""

import json
from collections.abc import Callable
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from detheads.headkit.options import Share, allowed, convert, to_json, to_text, unsupported


class Mode(Enum):
    SLOW = "slow"
    FAST = "fast"


class Depth(IntEnum):
    SHALLOW = 1
    DEEP = 4


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


@pytest.mark.parametrize(
    ("annotation", "value", "text"),
    [
        (int, -7, "-7"),
        (float, 1e-9, "1e-09"),
        (bool, True, "true"),
        (str, "a, b", "a, b"),
        (str, "", ""),
        (Literal["a", 2, True], 2, "2"),
        (Literal["a", 2, True], True, "true"),
        (Mode, Mode.FAST, "fast"),
        (Depth, Depth.DEEP, "4"),
        (tuple[int, ...], (), "[]"),
        (tuple[int, ...], (1, 2, 3), "1,2,3"),
        (tuple[int, float], (1, 2.0), "1,2.0"),
        (tuple[Mode, ...], (Mode.SLOW, Mode.FAST), "slow,fast"),
        (tuple[int | None, ...], (None, 3), "none,3"),
        (tuple[tuple[int, int], ...], ((1, 2), (3, 4)), "[[1, 2], [3, 4]]"),
        (list[str], ["a", "b c"], "a,b c"),
        (list[str], ["a,b", "", "[x"], '["a,b", "", "[x"]'),
        (list[PositiveInt], [8], "8"),
        (Optional[int], None, "none"),  # noqa: UP045 - people write it
        (int | None, 4, "4"),
        (str | None, "abc", "abc"),
        (Mode | None, None, "none"),
        (list[PositiveInt] | None, [1, 2], "1,2"),
        (int | float, 1, "1"),
        (int | float, 1.0, "1.0"),
        (bool | int, 1, "1"),
        (bool | int, True, "true"),
        (Literal["auto"] | PositiveInt, "auto", "auto"),
        (Literal["auto"] | PositiveInt, 7, "7"),
    ],
)
def test_value_text_and_json_of_an_option_are_made_of_each_other(annotation: Any, value: Any, text: str) -> None:
    assert not unsupported(annotation)
    assert to_text(value) == text
    for form in (text, json.loads(json.dumps(to_json(value))), value):
        found = convert(annotation, form)
        assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("annotation", "words", "values"),
    [
        (Mode, "one of slow, fast", ["SLOW", "", None, 1]),
        (Depth, "one of 1, 4", ["2", 3, "DEEP"]),
        (tuple[int, int], "2 values separated by commas: a whole number; a whole number", ["1", "1,2,3", (1,), "1,x"]),
        (tuple[float, ...], "values separated by commas, each a number", ["nan", (float("inf"),), '["1"]', 3]),
        (Annotated[list[PositiveInt], Field(min_length=1)], "values (1 or more) separated by commas", ["[]", [], "0"]),
        (PositiveInt | None, "a whole number above 0 or none", ["0", "None?", "", -1]),
        (Literal["auto"] | int, "one of auto or a whole number", ["manual", 1.5, None]),
        (int, "a whole number", [10**5000, "[" * 100_000, object(), {}]),
        (list[int], "values separated by commas", ["[" * 100_000, "[1", "{}"]),
    ],
)
def test_values_of_compound_types_that_are_not_allowed_are_refused(
    annotation: Any, words: str, values: list[object]
) -> None:
    assert allowed(annotation).startswith(words)
    for value in values:
        with pytest.raises(ValueError, match=r"^must be ") as raised:
            convert(annotation, value)
        assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    "annotation",
    [
        *(dict, dict[str, int], set[int], Any, bytes, complex, tuple, list, Path, None, int | str),
        *(list[dict[str, int]], Callable[[], int], tuple[Any, ...], Enum("Odd", {"A": (1, 2)})),
    ],
)
def test_any_other_type_is_unsupported(annotation: Any) -> None:
    assert unsupported(annotation)
