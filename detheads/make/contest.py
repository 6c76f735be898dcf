"""Which head, trained for how long: as many as the time allows, on the same features, judged by the same pictures."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from detheads.make.contenders import Contender, batch_for, contenders_for, training_config, useful_epochs
from detheads.make.ledger import Ledger
from detheads.make.rates import faster_precision, step_seconds
from detheads.make.request import Request
from detheads.training.config import Precision, TrainConfig

STARTING_SECONDS = 8.0
"""A head's process takes these to load its libraries (5 to 8 s on two cores of an AMD EPYC)."""
EVALUATION_SHARE = 1.3
"""A training with its evaluations takes this many times its steps, until the first one has shown how many."""
LONGER = 2
"""A longer training has this many times the epochs."""
MOST_EXTENSIONS = 3
"""Trainings of ever more epochs at most, even where time is not limited."""


@dataclass(frozen=True)
class Trial:
    """A head that was trained.

    Attributes:
        row: what the arena says of it.
        epochs: of its training.
        run: its folder.
    """

    row: Row
    epochs: int
    run: Path

    @property
    def ap(self) -> float:
        return self.row.metrics["AP"] or 0.0


@dataclass(frozen=True)
class Contest:
    """All heads that were trained.

    Attributes:
        trials: those that finished, the best first.
        failed: rows of those that did not.
        why: sentences on what was and was not tried.
        config: of the trainings but for their epochs.
    """

    trials: Sequence[Trial]
    failed: Sequence[Row]
    why: Sequence[str]
    config: TrainConfig

    @property
    def best(self) -> Trial:
        return self.trials[0]


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

    def seconds(contender: Contender, precision: Precision) -> float:
        config = training_config(request, len(train), 1, precision)
        on_progress("measuring", 0, 0)
        measured: float = ledger.decided(
            f"seconds of a step of {contender.head} in {precision}",
            lambda: step_seconds(contender.head, contender.options, train, config, device),
        )
        return measured

    precision: Precision = request.precision or ledger.decided(
        "precision", lambda: faster_precision(lambda each: seconds(first, each), device)
    )
    return Timing(precision, lambda contender: seconds(contender, precision))


def hold_contest(
    request: Request,
    train: FeatureCache,
    val: FeatureCache,
    ledger: Ledger,
    left: Callable[[], float],
    device: torch.device,
    on_progress: Progress,
) -> Contest:
    """Train one head after the other while there is time; started again it goes on.

    Args:
        left: seconds that are left for training.

    Raises:
        UserError: when every head fails.
    """
    contenders = contenders_for(request, device)
    timing = measure_heads(request, contenders[0], train, ledger, device, on_progress)
    epochs, sentence = ledger.decided(
        "epochs", lambda: choose_epochs(request, train, lambda: timing.step(contenders[0]), left())
    )
    config = training_config(request, len(train), epochs, timing.precision)

    def trained(contender: Contender, epochs: int) -> Trial | Row:
        return _train(contender, _lasting(config, epochs), train, val, _arena(train, epochs), device, on_progress)

    trials: list[Trial] = []
    failed: list[Row] = []
    why = [sentence]
    for contender in contenders:
        if trials and read_row(_arena(train, epochs), contender.head) is None:
            share = timing.step(contender) / timing.step(contenders[0])
            needed = (trials[0].row.seconds or 0.0) * share + STARTING_SECONDS
            if needed > left():
                why.append(f"{contender.head} ({contender.why}) was not tried: it would take another {span(needed)}")
                continue
        trial = trained(contender, epochs)
        if isinstance(trial, Trial):
            trials.append(trial)
        else:
            failed.append(trial)
    if not trials:
        raise UserError(f"no head could be trained; {failed[0].head}: {failed[0].error}")
    trials.sort(key=lambda trial: -trial.ap)
    for _ in range(MOST_EXTENSIONS if request.epochs is None else 0):
        best = trials[0]
        longer = best.epochs * LONGER
        needed = (best.row.seconds or 0.0) * LONGER + STARTING_SECONDS
        if not ledger.decided(f"{best.row.head} for {longer} epochs", partial(_fits, needed, left)):
            break
        trial = trained(next(each for each in contenders if each.head == best.row.head), longer)
        if not isinstance(trial, Trial):
            failed.append(trial)
            break
        gained = trial.ap > best.ap
        why.append(
            f"{best.row.head} reaches AP {trial.ap:.3f} in {longer} epochs, {'more' if gained else 'no more'} than "
            f"{best.ap:.3f} in {best.epochs}"
        )
        trials = sorted([*trials, trial], key=lambda trial: -trial.ap)
        if not gained:
            break
    return Contest(trials, failed, why, config)


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
    epoch = steps * step * EVALUATION_SHARE
    possible = useful if math.isinf(left) else int((left - STARTING_SECONDS) / epoch)
    if possible >= useful:
        return useful, f"{useful} epochs of {steps} steps: more gain little on {len(train):,} pictures"
    possible = max(1, possible)
    return possible, (
        f"{possible} epochs: a step takes {step:.2f} s (measured), so that {useful}, which would be useful, take "
        f"longer than the {span(max(left, 0.0))} for training"
    )


def _lasting(config: TrainConfig, epochs: int) -> TrainConfig:
    """The same training in other epochs, evaluated as many times."""
    return replace(config, epochs=epochs, eval_every=max(1, config.eval_every * epochs // config.epochs))


def _arena(train: FeatureCache, epochs: int) -> Path:
    """Heads are compared on the same features in the same epochs, each such comparison in a folder of its own."""
    return train.folder.parent / f"arena-{epochs}-epochs"


def _train(
    contender: Contender,
    config: TrainConfig,
    train: FeatureCache,
    val: FeatureCache,
    folder: Path,
    device: torch.device,
    on_progress: Progress,
) -> Trial | Row:
    """One head in an arena of its own turn: its trial, or the row that says why it failed."""
    title = f"training {contender.head}, {config.epochs} epochs"
    watch = Watch(on_step=lambda head, step, total: on_progress(title, step, total))
    (row,) = run_arena(
        Contestants({contender.head: contender.options}),
        train.folder,
        val.folder,
        folder,
        config,
        where=Where(devices=(str(device),)),
        measure_latency=False,
        watch=watch,
    )
    return row if row.status == "failed" else Trial(row, config.epochs, run_folder(folder, contender.head))


def _fits(needed: float, left: Callable[[], float]) -> bool:
    return needed <= left()
