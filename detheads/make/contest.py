"""Which head, trained for how long: as many as the time allows, on the same features, judged by the same pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from detheads.arena.pool import Watch
from detheads.arena.records import Row, read_row, run_folder
from detheads.arena.run import Contestants, Where, run_arena
from detheads.cache.reader import FeatureCache
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress
from detheads.make.budget import span
from detheads.make.contenders import (
    Contender,
    batch_for,
    contenders_for,
    mirror_for,
    training_config,
    useful_epochs,
)
from detheads.make.ledger import Ledger
from detheads.make.rates import faster_precision
from detheads.make.request import Request
from detheads.training.config import Precision, TrainConfig
from detheads.training.pace import step_seconds

STARTING_SECONDS = 8.0
"""A head's process takes these to load its libraries (5 to 8 s on two cores of an AMD EPYC)."""
EVALUATION_SHARE = 1.3
"""A training with its evaluations takes this many times its steps, until the first one has shown how many."""
COMPARING = 2.5
"""Heads are compared where there is time for this many trainings: the second head's may take half as long again as the
first one's. Where there is not, all of it goes into the first."""
LONGER = 2
WORTH_TRYING = 1.4
"""A longer training has this many times the epochs, or fewer where time is short, and at least these."""
MOST_EXTENSIONS = 3
"""Trainings of ever more epochs at most, even where time is not limited."""


@dataclass(frozen=True)
class Trial:
    """A head that was trained.

    Attributes:
        row: what the arena says of it.
        epochs: of its training.
        train: what it was trained on.
        run: its folder.
    """

    contender: Contender
    row: Row
    epochs: int
    train: FeatureCache
    run: Path

    @property
    def ap(self) -> float:
        return self.row.metrics["AP"] or 0.0


@dataclass(frozen=True)
class Timing:
    """How long steps take here.

    Attributes:
        precision: in which to train.
        step: seconds of a step of a head, measured when it is asked for and remembered.
    """

    precision: Precision
    step: Callable[[Contender], float]


def measure_heads(
    request: Request,
    first: Contender,
    train: FeatureCache,
    ledger: Ledger,
    device: torch.device,
    on_progress: Progress,
) -> Timing:
    """Choose the precision by the time that a step of the first head takes in each."""

    def seconds(contender: Contender, precision: Precision) -> tuple[float, float]:
        config = training_config(request, len(train), 1, precision)
        on_progress("measuring", 0, 0)
        clock, processor = ledger.decided(
            f"seconds of a step of {contender.head} on {request.backbone} in {precision}",
            lambda: step_seconds(contender.head, contender.options, train, config, device),
        )
        return clock, processor

    precision: Precision = request.precision or ledger.decided(
        f"precision on {request.backbone}", lambda: faster_precision(lambda each: seconds(first, each)[1], device)
    )
    return Timing(precision, lambda contender: seconds(contender, precision)[0])


class Contest:
    """Heads are trained one after the other while there is time; started again it goes on.

    Attributes:
        contenders: the heads to try, in order.
        trials: those that finished, the best first.
        failed: rows of those that did not.
        why: sentences on what was and was not tried.
    """

    def __init__(
        self,
        request: Request,
        train: FeatureCache,
        val: FeatureCache,
        ledger: Ledger,
        left: Callable[[], float],
        device: torch.device,
        on_progress: Progress,
    ) -> None:
        """Choose precision and epochs.

        Args:
            left: seconds that are left for training.
        """
        self._request, self._train, self._val, self._ledger = request, train, val, ledger
        self._left, self._device, self._on_progress = left, device, on_progress
        self.contenders = contenders_for(request, device)
        first = self.contenders[0]
        self._timing = measure_heads(request, first, train, ledger, device, on_progress)
        self._epochs, sentence = ledger.decided(
            "epochs", lambda: choose_epochs(request, train, lambda: self._timing.step(first), left())
        )
        self._base: Trial | None = None  # the first that was trained, by whose time that of others is told
        self.trials: list[Trial] = []
        self.failed: list[Row] = []
        self.why: list[str] = [sentence]

    @property
    def best(self) -> Trial:
        return self.trials[0]

    def compare_heads(self, contenders: Sequence[Contender]) -> None:
        """Train those of some heads that there is time for; the first of all whatever the time.

        Raises:
            UserError: when all fail.
        """
        for contender in contenders:
            if self._base is not None and read_row(_arena(self._train, self._epochs), contender.head) is None:
                share = self._timing.step(contender) / self._timing.step(self._base.contender)
                needed = (self._base.row.seconds or 0.0) * share + STARTING_SECONDS
                if needed > self._left():
                    self.why.append(f"{contender.head} was not tried: it would take another {span(needed)}")
                    continue
            trial = self._try(contender, self._train, self._epochs)
            self._base = self._base or trial
        if not self.trials:
            raise UserError(f"no head could be trained; {self.failed[0].head}: {self.failed[0].error}")

    def try_altered(self, cache: Callable[[], FeatureCache], pictures: int, seconds: float) -> None:
        """Train the best head in as many steps on the pictures with altered copies, where there is time to cache them.

        Args:
            cache: caches them.
            pictures: that they are.
            seconds: that caching them takes.
        """
        best = self.best
        needed = seconds + (best.row.seconds or 0.0) + STARTING_SECONDS
        if not self._ledger.decided("altered copies", lambda: needed <= self._left()):
            self.why.append(f"altered copies of the pictures were not tried: they would take another {span(needed)}")
            return
        epochs = max(1, round(best.epochs * len(self._train) / pictures))
        self._compare(best, self._try(best.contender, cache(), epochs), "with altered copies of the pictures")

    def train_longer(self) -> None:
        """Train the best head for longer and longer, while there is time and it gains by it."""
        for _ in range(MOST_EXTENSIONS):
            best = self.best
            name = f"epochs of {best.row.head} on {best.train.folder.name} after {best.epochs}"
            epochs = self._ledger.decided(name, partial(_longer, best, self._left))
            if epochs < best.epochs * WORTH_TRYING:
                self.why.append(f"there was no time to train for much longer than {best.epochs} epochs")
                return
            if not self._compare(best, self._try(best.contender, best.train, epochs), f"in {epochs} epochs"):
                return

    def _compare(self, before: Trial, trial: Trial | None, how: str) -> bool:
        """Say what a further training of a head reached; whether it is better."""
        if trial is None:
            return False
        gained = trial.ap > before.ap
        self.why.append(
            f"{before.row.head} {how} reaches AP {trial.ap:.3f}, {'more' if gained else 'no more'} than the "
            f"{before.ap:.3f} of before"
        )
        return gained

    def _try(self, contender: Contender, train: FeatureCache, epochs: int) -> Trial | None:
        """Train one head in an arena; None when it fails."""
        # Altered copies are mirrored already, half of them.
        mirror = mirror_for(train) if train is self._train else "none"
        config = training_config(self._request, len(train), epochs, self._timing.precision, mirror)
        folder = _arena(train, epochs)
        row = train_head(self._request, contender, train, self._val, config, folder, self._device, self._on_progress)
        if row.status == "failed":
            self.failed.append(row)
            return None
        trial = Trial(contender, row, epochs, train, run_folder(folder, contender.head))
        self.trials = sorted([*self.trials, trial], key=lambda each: -each.ap)
        return trial


def train_head(
    request: Request,
    contender: Contender,
    train: FeatureCache,
    val: FeatureCache,
    config: TrainConfig,
    folder: Path,
    device: torch.device,
    on_progress: Progress,
) -> Row:
    """Train one head in an arena in ``folder``, or read what it reached there before."""
    title = f"training {contender.head}, {config.epochs} epochs"
    (row,) = run_arena(
        Contestants({contender.head: contender.options}, tuple(request.head_files)),
        train.folder,
        val.folder,
        folder,
        config,
        where=Where(devices=(str(device),), threads=request.threads),
        measure_latency=False,
        watch=Watch(on_step=lambda head, step, total: on_progress(title, step, total)),
    )
    return row


def choose_epochs(
    request: Request, train: FeatureCache, step_seconds: Callable[[], float], left: float
) -> tuple[int, str]:
    """Epochs of each training, and why.

    Args:
        step_seconds: measures a step.
        left: seconds for a training.
    """
    if request.epochs is not None:
        return request.epochs, f"{request.epochs} epochs, as asked for"
    useful, steps = useful_epochs(len(train)), -(-len(train) // batch_for(len(train)))
    step = step_seconds()
    possible = max(1.0, (left - STARTING_SECONDS) / (steps * step * EVALUATION_SHARE))
    if possible >= useful * COMPARING:
        return useful, f"{useful} epochs of {steps} steps to compare heads"
    epochs = int(possible)
    if epochs >= useful:
        return epochs, f"{epochs} epochs of {steps} steps: there is time for one head, which is given all of it"
    return epochs, (
        f"{epochs} epochs: a step takes {step:.2f} s (measured), so that {useful}, which would be useful, take "
        f"longer than the {span(max(left, 0.0))} for training"
    )


def _arena(train: FeatureCache, epochs: int) -> Path:
    """Heads are compared on the same features in the same epochs, each such comparison in a folder of its own."""
    return train.folder.parent / f"arena-{train.folder.name}-{epochs}-epochs"


def _longer(best: Trial, left: Callable[[], float]) -> int:
    """Epochs of a longer training: twice those of the best one, or as many as there is time for."""
    possible = (left() - STARTING_SECONDS) * best.epochs / (best.row.seconds or 1.0)
    return int(max(0.0, min(best.epochs * LONGER, possible)))
