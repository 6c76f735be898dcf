"""Where an interrupted run stands, as its last checkpoint tells, held to what is possible."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from detheads.training.checkpoint import Checkpoint
from detheads.training.sweep import Weights


class Progress(BaseModel):
    """Where a run stands.

    Attributes:
        step: optimiser steps taken.
        seconds: wall time in the training loop.
        scaler: state of the loss scaler.
        window: loss terms of the steps since the last line of the log.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    step: int = Field(ge=0)
    seconds: float = Field(ge=0, allow_inf_nan=False)
    scaler: dict[str, Any]
    window: list[dict[str, float]] = Field(max_length=1000)


class _Best(BaseModel):
    """What is looked at of the best evaluation; the last three are those of a sweep's pick."""

    model_config = ConfigDict(frozen=True, strict=True)

    AP: float = Field(ge=0, le=1)
    epoch: int = Field(ge=1)
    per_class: dict[str, dict[str, float | None]]
    step: int | None = Field(None, ge=1)
    weights: Weights | None = None
    held_out_ap: float | None = Field(None, ge=0, le=1)


def read_progress(last: Checkpoint, steps_per_epoch: int) -> Progress:
    """The progress of a run.

    Raises:
        ValueError: saying what is impossible.
    """
    try:
        progress = Progress.model_validate(last.progress)
        best = _Best.model_validate(last.metrics) if last.metrics else None
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None
    if best is not None and (best.step or best.epoch * steps_per_epoch) > progress.step:
        raise ValueError(f"its best epoch {best.epoch} lies behind its step {progress.step}")
    if len({frozenset(losses) for losses in progress.window}) > 1:
        raise ValueError("the logged losses have different terms")
    return progress
