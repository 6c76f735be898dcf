"""What is done with a bundle before it is served: the work that libraries put off, and whether batches pay here."""

from time import perf_counter
from typing import Final

import numpy as np

from detheads.deploy.detector import Detector
from detheads.deploy.serving.settings import Settings
from detheads.foundation.errors import UserError

ROUNDS: Final = 3
LONG: Final = 0.2
"""Seconds of a run from which one round tells enough."""
PAYS: Final = 0.95
"""Two pictures together must take less than this of twice the time of one. On a CPU they take about all of it, and all
clients of a batch would wait for its last picture; on a GPU hardly more than half."""


def warm_up(name: str, detector: Detector, settings: Settings) -> int:
    """Run a picture alone and a whole batch, so that the first clients do not wait for what libraries put off.

    Returns:
        How many pictures of several requests to run together: ``max_batch`` where it was asked for or pays, else 1.

    Raises:
        UserError: when ``max_batch`` pictures cannot be run at once.
    """
    size = detector.manifest.input

    def run(pictures: int) -> float:
        images = np.zeros((pictures, 3, size.height, size.width), np.uint8)
        began = perf_counter()
        detector.session.run(images)
        return perf_counter() - began

    for pictures in sorted({1, settings.max_batch}):
        try:
            run(pictures)
        except Exception as error:  # libraries raise what they like
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{name} does not run {pictures} pictures at once ({reason}); lower --max-batch.") from None
    if settings.gather or settings.max_batch == 1:
        return settings.max_batch
    run(2)
    alone, pair = [], []
    for _ in range(ROUNDS):
        alone.append(run(1))
        pair.append(run(2))
        if pair[-1] > LONG:
            break
    return settings.max_batch if min(pair) < PAYS * 2 * min(alone) else 1
