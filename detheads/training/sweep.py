"""The late-training sweep: of the weights in the last part of a schedule the best are shipped, live or averaged.

AP does not rise to the last step, and whether the live weights or their average are better changes on the way. A sweep
looks at both at some steps and keeps the best; it judges by training pictures that were held out
(:mod:`detheads.training.held_out`), never by the validation cache, whose AP would then be that of the luckiest
checkpoint. Source: phanerozoic/detection-heads, which picked out of 11 on COCO's validation split itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from detheads.training.log import read_log

Weights = Literal["averaged", "live"]
KINDS: tuple[Weights, ...] = ("averaged", "live")
"""Where both are as good, the averaged ones are kept."""


@dataclass(frozen=True)
class Point:
    """One look of a sweep.

    Attributes:
        step: optimiser steps taken.
        averaged, live: AP of these weights on the held-out pictures.
    """

    step: int
    averaged: float
    live: float


def log_entry(aps: Mapping[Weights, float]) -> dict[str, float]:
    """A look as the run's log has it."""
    return {f"held_out_ap_{kind}": aps[kind] for kind in KINDS}


def read_sweep(run: Path) -> list[Point]:
    """The looks of a run's sweep so far, from its log."""
    return [
        Point(entry["step"], *(entry[f"held_out_ap_{kind}"] for kind in KINDS))
        for entry in read_log(run)
        if all(entry.get(f"held_out_ap_{kind}") is not None for kind in KINDS)
    ]
