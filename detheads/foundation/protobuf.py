"""The fields of a protocol buffer, found without the protobuf library (the runtime has none).

A message is a row of fields of a number and a wire type, where messages, texts and bytes are of wire type 2 and carry
their length (protobuf.dev, "Encoding").
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """A field: its number, and either its value (wire type 0) or where its content begins and ends (wire type 2)."""

    number: int
    value: int | None
    start: int
    end: int


def fields(data: Any, start: int, end: int) -> Iterator[Field]:
    """The fields of wire types 0 and 2 between two places of a buffer; the fixed ones are passed over.

    Raises:
        ValueError, IndexError: when the bytes are no message.
    """
    at = start
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield Field(key >> 3, value, at, at)
        elif kind == LENGTH:
            length, at = _varint(data, at)
            if at + length > end:
                raise ValueError("a field ends behind its message")
            yield Field(key >> 3, None, at, at + length)
            at += length
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")


def varints(data: Any, start: int, end: int) -> Iterator[int]:
    """The numbers of a packed field."""
    at = start
    while at < end:
        value, at = _varint(data, at)
        yield value


def _varint(data: Any, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")
