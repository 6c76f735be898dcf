"""How long a step of a training takes on this machine: measured, never guessed."""

import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detheads.cache.reader import FeatureCache
from detheads.training.config import TrainConfig
from detheads.training.status import Status
from detheads.training.trainer import Trainer

FIRST_STEPS, TIMED_STEPS = 3, 6
"""Steps that are trained before and while the time is taken; the first ones warm libraries and caches up."""
PATIENCE = 15.0
"""Seconds after which fewer steps have to do: bf16 on two threads of a busy machine took 12 s a step, fp32 0.4 s."""
ENDLESS = 1_000_000
"""Epochs that no measurement comes to the end of."""


class _EnoughError(Exception):
    """Ends a training that was begun to be timed."""


def step_seconds(
    head: str,
    options: Mapping[str, Any],
    cache: FeatureCache,
    config: TrainConfig,
    device: torch.device,
    *,
    class_embeddings: Tensor | None = None,
    least: float = 0.0,
) -> tuple[float, float]:
    """Seconds of a training step of a head on a cache, reading included: on the clock, and of the processor.

    Args:
        least: seconds over which the time is taken at least.

    Raises:
        UserError: as :class:`Trainer`.
    """
    marks: list[tuple[int, float, float]] = []
    asked = time.monotonic()

    def on_step(status: Status) -> None:
        float(status.loss)  # waits until the device has taken the step
        mark = status.step, time.monotonic(), time.process_time()
        waited = mark[1] - asked
        if not marks:
            if status.step >= FIRST_STEPS or waited > PATIENCE / 2:
                marks.append(mark)
            return
        timed = status.step >= marks[0][0] + TIMED_STEPS and mark[1] - marks[0][1] >= least
        if timed or waited > PATIENCE + least:
            marks.append(mark)
            raise _EnoughError

    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        # It never comes to an evaluation, so the training pictures may stand for those to judge by.
        config = replace(config, epochs=ENDLESS, eval_every=ENDLESS, steps=0)
        trainer = Trainer(head, options, cache, cache, run, config, device=device, class_embeddings=class_embeddings)
        with suppress(_EnoughError):
            trainer.fit(on_step)
    (first, began, before), (last, ended, after) = marks
    return (ended - began) / (last - first), (after - before) / (last - first)
