"""How fast this machine is at what takes the time: measured, never guessed."""

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from detheads.backbones.backbone import Backbone
from detheads.cache.builder import build_cache
from detheads.cache.reader import FeatureCache
from detheads.data import Dataset
from detheads.training.config import Precision, TrainConfig
from detheads.training.status import Status
from detheads.training.trainer import Trainer

WARM_UP, TIMED = 2, 8
"""Pictures that are cached before and while the time is taken."""
FIRST_STEPS, TIMED_STEPS = 3, 6
"""Steps that are trained before and while the time is taken; the first ones warm libraries and caches up."""
PATIENCE = 15.0
"""Seconds after which fewer steps have to do: bf16 on two threads of a busy machine took 12 s a step, fp32 0.4 s."""


class _EnoughError(Exception):
    """Ends a training that was begun to be timed."""


def caching_seconds(backbone: Backbone, dataset: Dataset) -> float:
    """Seconds that a picture takes to be cached once, decoded, without its mirror image.

    Raises:
        UserError: as :func:`build_cache`.
    """
    warm, timed = _some(dataset, 0, WARM_UP), _some(dataset, WARM_UP, TIMED)
    with tempfile.TemporaryDirectory() as place:
        build_cache(warm, backbone, Path(place) / "warm", skip_bad=True)
        began = time.monotonic()
        build_cache(timed, backbone, Path(place) / "timed", skip_bad=True)
        return (time.monotonic() - began) / len(timed.images)


def step_seconds(
    head: str, options: Mapping[str, Any], cache: FeatureCache, config: TrainConfig, device: torch.device
) -> tuple[float, float]:
    """Seconds of a training step of a head on a cache, reading included: on the clock, and of the processor.

    Raises:
        UserError: as :class:`Trainer`.
    """
    steps_per_epoch = -(-len(cache) // config.batch)
    epochs = -(-(FIRST_STEPS + TIMED_STEPS) // steps_per_epoch)
    marks: list[tuple[int, float, float]] = []
    asked = time.monotonic()

    def on_step(status: Status) -> None:
        float(status.loss)  # waits until the device has taken the step
        mark = status.step, time.monotonic(), time.process_time()
        waited = mark[1] - asked
        if not marks:
            if status.step >= FIRST_STEPS or waited > PATIENCE / 2:
                marks.append(mark)
        elif status.step >= marks[0][0] + TIMED_STEPS or waited > PATIENCE:
            marks.append(mark)
            raise _EnoughError

    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        # It never comes to an evaluation, so the training pictures may stand for those to judge by.
        config = replace(config, epochs=epochs + 1, eval_every=epochs + 1)
        trainer = Trainer(head, options, cache, cache, run, config, device=device)
        with suppress(_EnoughError):
            trainer.fit(on_step)
    (first, began, before), (last, ended, after) = marks
    return (ended - began) / (last - first), (after - before) / (last - first)


def faster_precision(measure: Callable[[Precision], float], device: torch.device) -> Precision:
    """``auto`` on a GPU; on a CPU the faster of fp32 and bf16, which some processors compute in hardware.

    Args:
        measure: processor seconds of a step in a precision, which other programs do not change as they change those
            on the clock.
    """
    if device.type != "cpu":
        return "auto"
    both: tuple[Precision, Precision] = ("fp32", "bf16")
    return min(both, key=measure)


def _some(dataset: Dataset, first: int, count: int) -> Dataset:
    """``count`` pictures spread over the dataset, the ``first`` of them left out where there are as many."""
    total = len(dataset.images)
    places = sorted({(index * total // (WARM_UP + TIMED)) % total for index in range(first, first + count)})
    return replace(
        dataset,
        images=tuple(dataset.images[place] for place in places),
        objects=tuple(dataset.objects[place] for place in places),
    )
