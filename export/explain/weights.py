"""Whether a module of an artefact holds the weights of the PyTorch module it came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from detheads.export.explain.marks import within

TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2, "int8": 0.05}
"""Relative, root mean square: weights rounded to that precision stay below."""


@dataclass(frozen=True)
class Altered:
    """A weight tensor that is not PyTorch's.

    Attributes:
        error: relative, root mean square.
        rows: output channels that differ.
        zeros: those of them that are all zero in the artefact.
    """

    name: str
    error: float
    rows: Sequence[int]
    zeros: Sequence[int]


def altered(
    twin: onnx.ModelProto, module: str, meant: Mapping[str, NDArray[np.float32]], precision: str
) -> list[Altered]:
    """The weights of a module that no constant of its nodes equals, the most altered first.

    Args:
        twin: the artefact's graph in FP32.
        meant: PyTorch's, by name.
    """
    path = f"{module}/"
    used = {
        name
        for node in twin.graph.node
        if node.name.startswith(path) or within(node.name.rpartition("/")[0], module)
        for name in node.input
    }
    constants = [numpy_helper.to_array(entry) for entry in twin.graph.initializer if entry.name in used]
    constants = [array for array in constants if np.issubdtype(array.dtype, np.floating)]
    found = []
    for name, wanted in meant.items():
        shaped = [form for array in constants if (form := _as(array, wanted.shape)) is not None]
        if not shaped:  # folded into something else, or of no use to this graph
            continue
        nearest = min(shaped, key=lambda array: _error(wanted, array))
        error = _error(wanted, nearest)
        if error > TOLERANCE[precision]:
            rows = _rows(wanted, nearest, TOLERANCE[precision])
            zeros = [row for row in rows if not np.any(nearest[row]) and np.any(wanted[row])]
            found.append(Altered(name, error, rows, zeros))
    return sorted(found, key=lambda one: -one.error)


def _as(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """A constant in the form of a weight: matrices may be stored transposed, vectors with axes of one."""
    if array.shape == shape:
        return array.astype(np.float32)
    if array.ndim == 2 and array.T.shape == shape:
        return array.T.astype(np.float32)
    if len(shape) == 1 and array.size == shape[0]:
        return array.reshape(shape).astype(np.float32)
    return None


def _rows(wanted: NDArray[np.float32], found: NDArray[np.float32], tolerance: float) -> list[int]:
    if not wanted.ndim:
        return []
    apart = np.abs(wanted - found).reshape(len(wanted), -1).max(axis=1)
    return np.flatnonzero(apart > tolerance * np.abs(wanted).max()).tolist()


def _error(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    size = float(np.sqrt(np.square(wanted, dtype=np.float64).mean()))
    return float(np.sqrt(np.square(wanted - found, dtype=np.float64).mean())) / max(size, 1e-12)
