"""What is wrong with boxes that are off while the numbers they are decoded from are right, and with single classes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detheads.export.explain.explanation import Cause
from detheads.export.matching import Dense

STEADY = 0.02
"""A shift is one where it varies over pictures and sides by no more than this share of a stride."""

CLASS_APART = 1e-3
"""Scores of a class further apart than this are altered."""


def explain_boxes(live: Sequence[Dense], found: Sequence[Dense], strides: NDArray[np.floating] | None) -> Cause | None:
    """A shift that is the same for all pictures, in strides or in pixels; None where it is none.

    Args:
        live, found: of each picture PyTorch's and the artefact's boxes ``[N, 4]`` and scores ``[N, K]``.
        strides: ``[N]`` of the rows, pixels; None where the head has none.
    """
    moved = np.stack([other[0] - one[0] for one, other in zip(live, found, strict=True)])  # [P, N, 4]
    units = np.ones(moved.shape[1]) if strides is None else np.asarray(strides, np.float64).reshape(-1)
    if len(units) != moved.shape[1]:
        units = np.ones(moved.shape[1])
    shift = moved / units[None, :, None]
    typical = np.median(shift, axis=(0, 1))  # [4]
    x, y = (typical[0] + typical[2]) / 2, (typical[1] + typical[3]) / 2
    spread = np.median(np.abs(shift - np.array([x, y, x, y])))
    if max(abs(x), abs(y)) <= STEADY or not spread <= STEADY * max(1.0, abs(x), abs(y)):
        return None
    unit = "pixels" if strides is None else "strides of its level"
    half = "half a stride: " if strides is not None and np.isclose(np.abs([x, y]).max(), 0.5, atol=STEADY) else ""
    sentence = f"decoding moves every box by {half}({x:+.2f}, {y:+.2f}) {unit}, whatever the picture"
    return Cause("decode", "decode", sentence, {"x": float(x), "y": float(y), "unit": unit})


def altered_classes(live: Sequence[Dense], found: Sequence[Dense]) -> list[int]:
    """Classes whose scores are altered, where others' are not; empty else."""
    apart = np.max([np.abs(one[1] - other[1]).max(axis=0) for one, other in zip(live, found, strict=True)], axis=0)
    altered = np.flatnonzero(apart > CLASS_APART)
    return altered.tolist() if 0 < len(altered) < len(apart) else []
