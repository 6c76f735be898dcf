"""Which further files an ONNX file reads its weights from, found without the onnx library (the runtime has none).

An ONNX file is one protocol buffer: fields of a number and a wire type, where messages, texts and bytes are of wire
type 2 and carry their length. Only the fields on the way to the weights are followed (onnx.proto, IR version 10).
"""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from detheads.foundation.errors import UserError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
DEEPEST = 64
"""Graphs within graphs that are followed."""

INSIDE: Final[Mapping[str, Mapping[int, str]]] = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""Of each message the fields that lead to weights, and what they hold. An entry is a key (1) and a value (2)."""


def external_files(path: Path) -> set[str]:
    """Names of the files, relative to the graph's folder, that hold weights of the graph.

    Raises:
        UserError: when the file is not an ONNX file.
    """
    with path.open("rb") as stream:
        if not path.stat().st_size:
            raise UserError(f"{path} is empty; copy it again.")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return set(_locations(data, 0, len(data), "model", DEEPEST))
            except (ValueError, IndexError):
                raise UserError(f"{path} is not an ONNX file; export it again.") from None


def _locations(data: Any, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    if not depth:
        raise ValueError("too deep")
    for number, first, last in _fields(data, start, end):
        inner = INSIDE[message].get(number)
        if inner == "entry":
            parts = {key: bytes(data[low:high]) for key, low, high in _fields(data, first, last)}
            if parts.get(1) == b"location":
                yield parts.get(2, b"").decode("utf-8", "replace")
        elif inner is not None:
            yield from _locations(data, first, last, inner, depth - 1)


def _fields(data: Any, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, first byte and end of every field of wire type 2 between two places."""
    at = start
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == VARINT:
            _, at = _varint(data, at)
        elif kind == LENGTH:
            length, at = _varint(data, at)
            if at + length > end:
                raise ValueError("a field ends behind its message")
            yield key >> 3, at, at + length
            at += length
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")


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
