"""Which further files an ONNX file reads its weights from, found without the onnx library (the runtime has none).

An ONNX file is one protocol buffer. Only the fields on the way to the weights are followed (onnx.proto, IR version 10).
"""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from detheads.foundation.errors import UserError
from detheads.foundation.protobuf import fields

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
    for number, value, first, last in fields(data, start, end):
        inner = INSIDE[message].get(number) if value is None else None
        if inner == "entry":
            parts = {part.number: bytes(data[part.start : part.end]) for part in fields(data, first, last)}
            if parts.get(1) == b"location":
                yield parts.get(2, b"").decode("utf-8", "replace")
        elif inner is not None:
            yield from _locations(data, first, last, inner, depth - 1)
