"""How fast this machine is at what takes the time: measured, never guessed."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from detheads.backbones.backbone import Backbone
from detheads.cache.builder import build_cache
from detheads.data import Dataset
from detheads.training.config import Precision

WARM_UP, TIMED = 2, 8
"""Pictures that are cached before and while the time is taken."""


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
