"""YAML for people to read and edit, written without a library: the runtime has none."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
"""Keys that need no quotes."""
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""Which some readers take for something else."""


def yaml_text(document: Mapping[str, Any]) -> str:
    """JSON values as block YAML. Strings are quoted as in JSON, of which YAML 1.2 takes every string."""
    return "".join(f"{line}\n" for line in _lines(document))


def _lines(value: Mapping[str, Any] | Sequence[Any]) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            plain = _PLAIN.fullmatch(key) and key.lower() not in _WORDS
            yield from _entry(f"{key if plain else json.dumps(key)}:", inner, "  ")
        return
    for inner in value:
        if isinstance(inner, Mapping | list | tuple) and inner:
            first, *others = _lines(inner)
            yield f"- {first}"
            yield from (f"  {line}" for line in others)
        else:
            yield f"- {json.dumps(inner)}"


def _entry(key: str, value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, Mapping | list | tuple) and value:
        yield key
        yield from (indent + line for line in _lines(value))
    else:
        yield f"{key} {json.dumps(value)}"
