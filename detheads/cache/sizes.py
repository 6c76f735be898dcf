"""What a cache takes on the disk, and what it would take built otherwise. Known before any picture is read."""

import math
import shutil
from pathlib import Path
from typing import Any

from detheads.cache.manifest import Settings
from detheads.foundation.atomic import sized
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import sides

SMALLEST = 0.5
"""Share of the sides of the input that a smaller one is offered with: features of a quarter of the places are another
cache rather than a smaller one."""


def other_sizes(settings: Settings, images: int) -> dict[str, int]:
    """Bytes of the features of some images under each other choice of storage: options of ``cache build`` -> bytes."""
    int8: dict[str, Any] = {"dtype": "int8"}
    turned: dict[str, Any] = {"flips": not settings.flips}
    flips = "without --flips (train --mirror features)" if settings.flips else "with --flips"
    changes = {"with --dtype int8": int8} if settings.dtype != "int8" else {}
    changes[flips] = turned
    if settings.flips and settings.dtype != "int8":
        changes[f"with --dtype int8 and {flips}"] = int8 | turned
    return {how: images * settings.model_copy(update=change).bytes_per_image for how, change in changes.items()}


def fitting_size(settings: Settings, images: int, free: int) -> str | None:
    """The largest input of the same proportions, for ``--size``, whose features take at most ``free`` bytes."""
    step = math.lcm(*(layer.stride for layer in settings.layers))
    for height in range(settings.height - step, math.ceil(SMALLEST * settings.height) - 1, -step):
        width = round(settings.width * height / settings.height / step) * step
        if images * settings.model_copy(update={"height": height, "width": width}).bytes_per_image <= free:
            return sides(height, width).partition(" ")[0] if height != width else str(height)
    return None


def require_space(folder: Path, needed: int, settings: Settings | None = None) -> None:
    """Compare the bytes that are to be written with the space of the folder's disk.

    Args:
        settings: of features that are to be extracted, which could be chosen otherwise.

    Raises:
        UserError: when the disk is too small; with the choices that take less, and the largest input that fits.
    """
    free = shutil.disk_usage(folder).free
    if needed <= free:
        return
    choices: list[str] = []
    if settings is not None:
        images = math.ceil(needed / settings.bytes_per_image)
        choices = [f"{how}: {sized(size)}" for how, size in other_sizes(settings, images).items() if size < needed]
        if (size := fitting_size(settings, images, free)) is not None:
            choices.append(f"the largest --size that fits: {size}")
    instead = f"make it smaller ({'; '.join(choices)}) or use" if choices else "make room or use"
    missing = f"the cache needs another {sized(needed)}, {folder} has {sized(free)} free"
    raise UserError(f"{missing}; {instead} another disk.")
