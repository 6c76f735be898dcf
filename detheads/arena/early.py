"""Hopeless heads end early: asynchronous successive halving, by Ray Tune's own scheduler.

Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning" (ASHA). At an eighth, a quarter and a half of
its training a head goes on when its AP is at least the median of those that came so far before it. Whoever comes first
has nobody to be compared with and goes on, so no worker ever waits.
"""

import importlib
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from detheads.arena.records import run_folder
from detheads.foundation.errors import UserError
from detheads.training.log import read_log

FIRST = 12.5
"""Percent of a training before which none is stopped."""
FACTOR = 2
"""The better half goes on, and each time goes twice as far. Ray's own factor of 4 keeps the best quarter, which suits
hundreds of settings of one model; of a few dozen different heads it would leave two or three."""


class Halving:
    """Decides which of some heads end early.

    Raises:
        UserError: when Ray Tune is not installed.
    """

    def __init__(self, heads: Iterable[str]) -> None:
        try:
            self._tune = importlib.import_module("ray.tune.schedulers")
        except ImportError:
            raise UserError("--stop-early needs Ray Tune; install it with: pip install 'detheads[tune]'.") from None
        self._scheduler = self._tune.AsyncHyperBandScheduler(
            time_attr="percent",
            metric="AP",
            mode="max",
            max_t=100,
            grace_period=FIRST,
            reduction_factor=FACTOR,
            stop_last_trials=False,
        )
        # Of a trial the scheduler looks at its name only, and at its controller not at all.
        self._trials = {head: SimpleNamespace(trial_id=head) for head in heads}
        for trial in self._trials.values():
            self._scheduler.on_trial_add(None, trial)

    def is_hopeless(self, head: str, percent: float, ap: float) -> bool:
        """Whether a head ends now.

        Args:
            percent: of its training that is behind it.
            ap: of its best evaluation so far.
        """
        result: dict[str, Any] = {"percent": percent, "AP": ap}
        decided: str = self._scheduler.on_trial_result(None, self._trials[head], result)
        return decided == self._tune.TrialScheduler.STOP

    def remember(self, arena: Path, head: str) -> None:
        """Take account of a head that finished, however fast, by the log of its first seed."""
        evaluated = [entry for entry in read_log(run_folder(arena, head)) if entry.get("AP") is not None]
        best = 0.0
        for entry in evaluated:
            best = max(best, entry["AP"])
            self.is_hopeless(head, 100 * entry["step"] / evaluated[-1]["step"], best)
