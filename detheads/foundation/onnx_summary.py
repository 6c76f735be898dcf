"""What an ONNX file says of itself, read without the onnx library: the runtime has none, and a device needs none.

Field numbers are those of onnx.proto, IR version 10.
"""

import mmap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Final

from detheads.foundation.errors import UserError
from detheads.foundation.onnx_files import DEEPEST
from detheads.foundation.protobuf import fields, varints

TYPES: Final[Mapping[int, str]] = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16", 17: "float8e4m3fn", 18: "float8e4m3fnuz",
    19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4", 22: "int4", 23: "float4e2m1",
}  # fmt: skip
"""TensorProto.DataType."""
BITS: Final[Mapping[str, int]] = {
    "float32": 32, "uint8": 8, "int8": 8, "uint16": 16, "int16": 16, "int32": 32, "int64": 64, "bool": 8,
    "float16": 16, "float64": 64, "uint32": 32, "uint64": 64, "bfloat16": 16, "uint4": 4, "int4": 4, "float4e2m1": 4,
}  # fmt: skip
OWN_DOMAINS: Final = ("", "ai.onnx")
"""Two names of ONNX's own operators."""


@dataclass(frozen=True)
class TensorInfo:
    """An input or output. ``shape``: numbers, names of free axes, ``"?"`` where nothing is said."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(map(str, self.shape))}]"


@dataclass
class GraphSummary:
    """An ONNX file in short.

    Attributes:
        opset: of ONNX's own operators.
        nodes: operators of the graph, counted; one of another domain is called ``DOMAIN.NAME``.
        inner_nodes: the same of the graphs within it: bodies of loops and branches, and functions.
        weights: bytes of the stored tensors by type, as their shapes say.
        metadata: the file's own notes.
    """

    opset: int = 0
    inputs: list[TensorInfo] = field(default_factory=list)
    outputs: list[TensorInfo] = field(default_factory=list)
    nodes: Counter[str] = field(default_factory=Counter)
    inner_nodes: Counter[str] = field(default_factory=Counter)
    weights: Counter[str] = field(default_factory=Counter)
    metadata: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, the most frequent operators first."""
        return {
            "opset": self.opset,
            "inputs": [vars(tensor) for tensor in self.inputs],
            "outputs": [vars(tensor) for tensor in self.outputs],
            "nodes": sum(self.nodes.values()),
            "operators": dict(self.nodes.most_common()),
            "inner_operators": dict(self.inner_nodes.most_common()),
            "weight_bytes": dict(self.weights.most_common()),
            "metadata": self.metadata,
        }


def summarise(path: Path) -> GraphSummary:
    """Read an ONNX file; weights in further files are counted by their shapes and not opened.

    Raises:
        UserError: when the file is not an ONNX file.
    """
    summary = GraphSummary()
    with path.open("rb") as stream:
        if not path.stat().st_size:
            raise UserError(f"{path} is empty; copy it again.")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                _Reader(data, summary).model(0, len(data))
            except (ValueError, IndexError):
                raise UserError(f"{path} is not an ONNX file; export it again.") from None
    return summary


class _Reader:
    """Follows the messages of one file and fills its summary."""

    def __init__(self, data: Any, summary: GraphSummary) -> None:
        self.data, self.summary = data, summary

    def model(self, start: int, end: int) -> None:
        for number, value, low, high in fields(self.data, start, end):
            if value is not None:
                continue
            if number == 7:
                self.graph(low, high, 0)
            elif number == 8:
                domain, version = self.opset(low, high)
                if domain in OWN_DOMAINS:
                    self.summary.opset = version
            elif number == 14:
                texts = self.texts(low, high)
                self.summary.metadata[texts.get(1, "")] = texts.get(2, "")
            elif number == 25:
                for inner, inner_value, first, last in fields(self.data, low, high):
                    if inner == 7 and inner_value is None:
                        self.node(first, last, 1)

    def graph(self, start: int, end: int, depth: int) -> None:
        if depth > DEEPEST:
            raise ValueError("too deep")
        for number, value, low, high in fields(self.data, start, end):
            if value is not None:
                continue
            if number == 1:
                self.node(low, high, depth)
            elif number == 5:
                self.tensor(low, high)
            elif number in (11, 12) and not depth:
                (self.summary.inputs if number == 11 else self.summary.outputs).append(self.value_info(low, high))

    def node(self, start: int, end: int, depth: int) -> None:
        operator, domain = "", ""
        for number, value, low, high in fields(self.data, start, end):
            if value is not None:
                continue
            if number == 4:
                operator = self.text(low, high)
            elif number == 7:
                domain = self.text(low, high)
            elif number == 5:
                self.attribute(low, high, depth)
        name = operator if domain in OWN_DOMAINS else f"{domain}.{operator}"
        (self.summary.inner_nodes if depth else self.summary.nodes)[name] += 1

    def attribute(self, start: int, end: int, depth: int) -> None:
        for number, value, low, high in fields(self.data, start, end):
            if value is None and number in (6, 11):
                self.graph(low, high, depth + 1)
            elif value is None and number in (5, 10):
                self.tensor(low, high)

    def tensor(self, start: int, end: int) -> None:
        """Add the size of a stored tensor; texts, and types without a known size, have none."""
        shape: list[int] = []
        kind = 0
        for number, value, low, high in fields(self.data, start, end):
            if number == 1:
                shape += [value] if value is not None else varints(self.data, low, high)
            elif number == 2 and value is not None:
                kind = value
        name = TYPES.get(kind, f"type {kind}")
        self.summary.weights[name] += prod(shape) * BITS.get(name, 0) // 8

    def value_info(self, start: int, end: int) -> TensorInfo:
        name, dtype = "", "?"
        shape: list[int | str] = []
        for number, value, low, high in fields(self.data, start, end):
            if number == 1 and value is None:
                name = self.text(low, high)
            elif number == 2 and value is None:
                for inner, _, first, last in fields(self.data, low, high):
                    if inner == 1:
                        dtype, shape = self.tensor_type(first, last)
        return TensorInfo(name, dtype, tuple(shape))

    def tensor_type(self, start: int, end: int) -> tuple[str, list[int | str]]:
        dtype = "?"
        shape: list[int | str] = []
        for number, value, low, high in fields(self.data, start, end):
            if number == 1 and value is not None:
                dtype = TYPES.get(value, f"type {value}")
            elif number == 2 and value is None:
                shape = [self.axis(first, last) for _, _, first, last in fields(self.data, low, high)]
        return dtype, shape

    def axis(self, start: int, end: int) -> int | str:
        for number, value, low, high in fields(self.data, start, end):
            if number == 1 and value is not None:
                return value
            if number == 2 and value is None:
                return self.text(low, high)
        return "?"

    def opset(self, start: int, end: int) -> tuple[str, int]:
        domain, version = "", 0
        for number, value, low, high in fields(self.data, start, end):
            if number == 1 and value is None:
                domain = self.text(low, high)
            elif number == 2 and value is not None:
                version = value
        return domain, version

    def texts(self, start: int, end: int) -> dict[int, str]:
        found = fields(self.data, start, end)
        return {part.number: self.text(part.start, part.end) for part in found if part.value is None}

    def text(self, start: int, end: int) -> str:
        return bytes(self.data[start:end]).decode("utf-8", "replace")
