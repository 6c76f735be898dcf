"""Figures for datasets too small to set pictures aside: each is judged by a head that has not seen it.

The pictures are divided into folds; a head is trained on all folds but one, to its last epoch, and judged by that one.
Nothing is chosen by the pictures that judge but the head, so the figures are honest where those of a best epoch are
optimistic. The shipped head is then trained on all pictures in the same way.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from detheads.arena.records import Row
from detheads.cache.reader import FeatureCache
from detheads.evaluation.coco import NAMES, Statistics, evaluate
from detheads.evaluation.predict import predict_cache
from detheads.foundation import atomic
from detheads.foundation.coco_results import read_results
from detheads.foundation.progress import Progress
from detheads.make.budget import span
from detheads.make.contenders import Contender, contenders_for, mirror_for, training_config
from detheads.make.contest import Trial, choose_epochs, measure_heads
from detheads.make.ledger import Ledger
from detheads.make.request import Request
from detheads.training.checkpoint import build_head, load_checkpoint
from detheads.training.config import TrainConfig
from detheads.training.status import Status, TrainResult
from detheads.training.trainer import Trainer

FOLDS_NAME, FINAL_NAME = "folds", "final"


@dataclass(frozen=True)
class Folded:
    """What cross-validation gave.

    Attributes:
        trials: the heads, the best first; its run is that of the head trained on all pictures.
        why: sentences on what was and was not tried.
        detections: COCO results of the best head's folds on all pictures together.
        statistics: of them.
    """

    trials: Sequence[Trial]
    why: Sequence[str]
    detections: Sequence[Mapping[str, Any]]
    statistics: Statistics


def cross_validate(
    request: Request,
    every: FeatureCache,
    folds: Sequence[tuple[FeatureCache, FeatureCache]],
    ledger: Ledger,
    left: Callable[[], float],
    device: torch.device,
    on_progress: Progress,
) -> Folded:
    """Judge heads by folds while there is time, and train the best on all pictures; started again it goes on.

    Args:
        every: all pictures.
        folds: (training, validation) of each fold.
        left: seconds that are left for training.
    """
    contenders = contenders_for(request, device)
    timing = measure_heads(request, contenders[0], every, ledger, device, on_progress)
    share = len(folds) + 1  # trainings of a head: its folds, and all pictures
    epochs, sentence = ledger.decided(
        "epochs", lambda: choose_epochs(request, every, lambda: timing.step(contenders[0]), left() / share)
    )
    config = replace(
        training_config(request, len(every), epochs, timing.precision, mirror_for(every)), eval_every=epochs
    )
    truth, why = every.dataset.coco_json(), [sentence]
    trials: list[tuple[Trial, list[Mapping[str, Any]], Statistics]] = []
    for contender in contenders:
        place = every.folder.parent / FOLDS_NAME / f"{contender.head}-{epochs}-epochs"
        if trials and not place.exists():
            ratio = timing.step(contender) / timing.step(contenders[0])
            needed = (trials[0][0].row.seconds or 0.0) * ratio * share / len(folds)
            if needed > left():
                why.append(f"{contender.head} was not tried: it would take another {span(needed)}")
                continue
        began = time.monotonic()
        detections: list[Mapping[str, Any]] = []
        for number, (train, val) in enumerate(folds, start=1):
            title = f"training {contender.head}, fold {number} of {len(folds)}"
            detections += _judge_fold(
                contender, train, val, place / f"fold-{number}", config, device, title, on_progress
            )
        statistics = evaluate(truth, detections)
        row = _row(contender, statistics, epochs, time.monotonic() - began)
        trials.append((Trial(contender, row, epochs, every, place), detections, statistics))
    trials.sort(key=lambda each: -each[0].ap)
    best, detections, statistics = trials[0]
    contender = best.contender
    run = every.folder.parent / FINAL_NAME / f"{contender.head}-{epochs}-epochs"
    trainer = Trainer(contender.head, contender.options, every, every, run, config, device=device)
    result = _fit(trainer, f"training {contender.head} on all pictures", on_progress)
    final = replace(best, run=run, row=best.row.model_copy(update={"parameters": result.parameters}))
    return Folded([final, *(each[0] for each in trials[1:])], why, detections, statistics)


def _judge_fold(
    contender: Contender,
    train: FeatureCache,
    val: FeatureCache,
    run: Path,
    config: TrainConfig,
    device: torch.device,
    title: str,
    on_progress: Progress,
) -> list[dict[str, Any]]:
    """COCO results on the pictures of a fold, of a head that was trained on the others."""
    # The training pictures stand for those to judge by, so that no epoch is chosen by the fold.
    trainer = Trainer(contender.head, contender.options, train, train, run, config, device=device)
    results = run.with_suffix(".json")
    if not results.is_file():
        _fit(trainer, title, on_progress)
        head = build_head(load_checkpoint(run)).to(device)
        atomic.write_json(results, predict_cache(head, val), indent=None)
    return read_results(results)


def _fit(trainer: Trainer, title: str, on_progress: Progress) -> TrainResult:
    def on_step(status: Status) -> None:
        on_progress(title, status.step, status.total_steps)

    return trainer.fit(on_step)


def _row(contender: Contender, statistics: Statistics, epochs: int, seconds: float) -> Row:
    values = statistics.to_dict()
    return Row(
        head=contender.head,
        status="done",
        options=dict(contender.options),
        metrics={name: values[name] for name in NAMES},
        per_class={name: each["AP"] for name, each in values["per_class"].items()},
        best_epoch=epochs,
        seconds=round(seconds, 1),
    )
