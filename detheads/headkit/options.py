"""Options of heads: the annotations of a config dataclass say what each may be, and pydantic holds values to it.

``width: PositiveInt = 128`` or ``share: Annotated[float, Field(ge=0, le=1)] = 0.5``; a plain ``int`` may be any.
"""

from typing import Annotated, Any, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

Share = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""

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


def convert(annotation: Any, value: Any) -> Any:
    """The value as the annotated type; text, as a command line has it, is read, all else must have the type already.

    Raises:
        ValueError: saying what is allowed.
    """
    adapter = _adapter(annotation)
    try:
        return (
            adapter.validate_strings(value) if isinstance(value, str) else adapter.validate_python(value, strict=True)
        )
    except ValidationError:
        raise ValueError(f"must be {allowed(annotation)}, not {value}") from None


def allowed(annotation: Any) -> str:
    """What an option may be, in words: ``a whole number above 0``."""
    schema = _adapter(annotation).json_schema()
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    kind = _KINDS.get(schema.get("type", ""), str(annotation))
    if {"minimum", "maximum"} <= schema.keys():
        return f"{kind} from {schema['minimum']} to {schema['maximum']}"
    return " ".join([kind, *(words.format(schema[key]) for key, words in _BOUNDS.items() if key in schema)])


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))
