"""Where a training stands, and what a finished one gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Status:
    """Where a run stands; handed to the progress callback after every step.

    Attributes:
        losses: terms of the step, on the training's device.
    """

    step: int
    total_steps: int
    epoch: int
    losses: Mapping[str, Tensor]
    best_ap: float | None

    @property
    def loss(self) -> float:
        """Their sum; asking for it waits until the device has taken the step."""
        return sum(float(value) for value in self.losses.values())


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        metrics: COCO statistics of the best evaluation.
        best_epoch: 1-based.
        seconds: wall time in the training loop, interruptions left out.
        remarks: what was mended, in sentences.
    """

    run: Path
    parameters: int
    metrics: dict[str, Any]
    best_epoch: int
    seconds: float
    remarks: tuple[str, ...] = ()
