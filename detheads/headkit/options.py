"""Options of heads: the annotations of a config dataclass say what each may be, and pydantic holds values to it.

``width: PositiveInt = 128`` or ``share: Annotated[float, Field(ge=0, le=1)] = 0.5``; a plain ``int`` may be any.

One option has three forms, and each can be made of each other: the value of the annotated type, which the head sees;
its JSON, which configurations and checkpoints hold (:func:`to_json`); and its text, which ``-O`` takes and ``heads
show`` prints (:func:`to_text`). :func:`convert` reads all three.

Allowed are ``int``, ``float``, ``bool``, ``str``, ``Literal``, an ``Enum`` of words or whole numbers, a tuple or list
of allowed types (``tuple[int, ...]``, ``tuple[int, float]``, ``list[str]``), and a union of them, ``None`` included.
"""

import json
import re
import types
from collections.abc import Sequence
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic_core import from_json, to_jsonable_python

Share = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""

ALLOWED = (
    "int, float, bool, str, Literal, Enum (of words or whole numbers), tuple and list of these, and unions of them "
    "with or without None (str only with None)"
)
"""The types that an option may have, in words."""

NONE = "none"
"""The text of None."""

LONGEST_VALUE = 60
"""Longest value, in letters, that a sentence quotes."""

_PLAIN = re.compile(r'[^\s,()\[\]"]([^,()\[\]"]*[^\s,()\[\]"])?')
"""Text that needs no quotes between commas."""

_BOUNDS = {
    "minimum": "of {} or more",
    "exclusiveMinimum": "above {}",
    "maximum": "of {} or less",
    "exclusiveMaximum": "below {}",
    "multipleOf": "that is a multiple of {}",
}
_KINDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"}


def option_types(config: type[Any]) -> dict[str, Any]:
    """The annotations of a config dataclass by option, bounds included."""
    return get_type_hints(config, include_extras=True)


def unsupported(annotation: Any) -> bool:
    """Whether no option may have this type, see :data:`ALLOWED`."""
    bare, members = _bare(annotation), _members(annotation)
    if members is not None:  # text that is a number and text that is text could not be told apart
        return any(map(unsupported, members)) or (len(members) > 1 and str in map(_bare, members))
    if isinstance(bare, type) and issubclass(bare, Enum):
        return not all(type(member.value) in (int, str) for member in bare)
    if get_origin(bare) in (tuple, list):
        return any(unsupported(kind) for kind in get_args(bare) if kind is not Ellipsis)
    return bare not in (int, float, bool, str) and get_origin(bare) is not Literal


def convert(annotation: Any, value: Any) -> Any:
    """The value as the annotated type; text, as a command line has it, is read, all else must have the type already.

    Raises:
        ValueError: saying what is allowed.
    """
    try:
        read = _read(annotation, value) if isinstance(value, str) else to_json(value)
        return _adapter(annotation).validate_json(json.dumps(to_json(read)), strict=True)
    except ValueError:  # pydantic's errors are ValueErrors
        raise ValueError(f"must be {allowed(annotation)}, not {_shown(value)}") from None


def to_json(value: Any) -> Any:
    """The value as JSON has it: tuples are lists, members of an Enum their values."""
    return to_jsonable_python(value)


def to_text(value: Any) -> str:
    """The value as a command line has it: ``none``, ``true``, ``1,2,3``."""
    value = to_json(value)
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        texts = [to_text(element) for element in value]
        plain = all(_PLAIN.fullmatch(text) for text in texts) and not any(isinstance(part, list) for part in value)
        return ",".join(texts) if texts and plain else json.dumps(value, ensure_ascii=False)
    return str(value)


def allowed(annotation: Any) -> str:
    """What an option may be, in words: ``a whole number above 0``."""
    members = _members(annotation)
    if members is not None:
        words = [allowed(member) for member in members]
        optional = type(None) in get_args(_bare(annotation))
        return " or ".join([*words, NONE] if optional else words)
    bare = _bare(annotation)
    if get_origin(bare) in (tuple, list):
        return _allowed_elements(bare, _schema(annotation))
    choices = _choices(bare)
    if choices is not None:
        return "one of " + ", ".join(map(to_text, choices))
    schema = _schema(annotation)
    kind = _KINDS.get(schema.get("type", ""), str(annotation))
    if {"minimum", "maximum"} <= schema.keys():
        return f"{kind} from {schema['minimum']} to {schema['maximum']}"
    return " ".join([kind, *(words.format(schema[key]) for key, words in _BOUNDS.items() if key in schema)])


def _shown(value: Any) -> str:
    try:
        text = to_text(value)
    except ValueError:  # not even JSON
        text = repr(type(value).__name__)
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "..."


def _allowed_elements(bare: Any, schema: dict[str, Any]) -> str:
    kinds = get_args(bare)
    if get_origin(bare) is list or kinds[-1] is Ellipsis:
        count = f" ({schema['minItems']} or more)" if "minItems" in schema else ""
        return f"values{count} separated by commas, each {allowed(kinds[0])}"
    return f"{len(kinds)} values separated by commas: {'; '.join(map(allowed, kinds))}"


def _read(annotation: Any, text: str) -> Any:
    """The value that a text stands for; bounds are not looked at.

    Raises:
        ValueError: when it reads as none.
    """
    members = _members(annotation)
    if members is not None:
        return _read_union(annotation, members, text)
    bare = _bare(annotation)
    choices = _choices(bare)
    if choices is not None:
        return _pick(choices, text)
    if get_origin(bare) in (tuple, list):
        return _read_elements(bare, text.strip())
    return _adapter(bare).validate_strings(text)


def _pick(choices: Sequence[Any], text: str) -> Any:
    for choice in choices:
        if to_text(choice) == text:
            return choice
    raise ValueError(text)


def _read_union(annotation: Any, members: Sequence[Any], text: str) -> Any:
    """The member that prints as the text it was read from, else the first that reads it: ``1`` is no ``true``."""
    if text == NONE and type(None) in get_args(_bare(annotation)):
        return None
    readings = []
    for member in members:
        try:
            readings.append(convert(member, text))
        except ValueError:
            continue
    if not readings:
        raise ValueError(text)
    return next((reading for reading in readings if to_text(reading) == text), readings[0])


def _read_elements(bare: Any, text: str) -> list[Any]:
    """``1,2,3`` or the JSON ``[1, 2, 3]``."""
    if text.startswith("["):
        return list(from_json(text))
    texts = [part.strip() for part in text.removeprefix("(").removesuffix(")").rstrip(",").split(",")]
    kinds = get_args(bare)
    if get_origin(bare) is list or kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(texts)
    return [_read(kind, part) for kind, part in zip(kinds, texts, strict=True)]


def _members(annotation: Any) -> list[Any] | None:
    """The types of a union without None; None for what is no union."""
    bare = _bare(annotation)
    if get_origin(bare) not in (Union, types.UnionType):
        return None
    return [member for member in get_args(bare) if member is not type(None)]


def _bare(annotation: Any) -> Any:
    """The annotation without its bounds."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _choices(bare: Any) -> Sequence[Any] | None:
    """The values of a Literal or an Enum."""
    if get_origin(bare) is Literal:
        return get_args(bare)
    return list(bare) if isinstance(bare, type) and issubclass(bare, Enum) else None


def _schema(annotation: Any) -> dict[str, Any]:
    return _adapter(annotation).json_schema()


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    """Not given to an Enum, which may have no configuration of pydantic's; it holds no floats."""
    bare = _bare(annotation)
    if isinstance(bare, type) and issubclass(bare, Enum):
        return TypeAdapter(annotation)
    return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))
