"""One head's part in an arena, in whatever process: train, evaluate, count, write the row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict

from detheads.arena.budget import steps_within
from detheads.arena.records import ControlOf, Row, SeedResult, detections_path, pace_path, run_folder
from detheads.backbones.text import read_embeddings
from detheads.cache.reader import FeatureCache
from detheads.evaluation.coco import NAMES, judge_at
from detheads.evaluation.predict import predict_cache
from detheads.evaluation.scores import IOU, curves_of
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.headkit.cost import measure
from detheads.headkit.head_file import load_head_file
from detheads.report.errors import WRONG, find_errors
from detheads.training.checkpoint import build_head, load_checkpoint
from detheads.training.config import TrainConfig
from detheads.training.status import Status, TrainResult
from detheads.training.trainer import Trainer


class Job(BaseModel):
    """All that a process needs to know to train one head of an arena. Paths are absolute.

    Attributes:
        head: its name in the library.
        control: of which of its ideas it is the control; None for the head as it is.
        threads: of this head's process.
        minutes: of each training, in place of the epochs or steps of ``training``.
        seeds: to train with, one after another; the training's own when empty.
        text: class embeddings for heads that compare with text.
        head_files: files of heads that are not in the package.
        device: torch's name of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arena: Path
    head: str
    control: ControlOf | None = None
    options: dict[str, Any]
    train: Path
    val: Path
    training: dict[str, Any]
    threads: int
    minutes: float | None = None
    seeds: tuple[int, ...] = ()
    text: Path | None = None
    head_files: tuple[Path, ...] = ()
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Among the heads of the arena."""
        return self.control.name if self.control else self.head


class Measured(NamedTuple):
    """What one seed reached, its best weights on the validation cache; as in :class:`Row`."""

    result: TrainResult
    metrics: dict[str, float | None]
    per_class: dict[str, float | None]
    errors: dict[str, float | None]


def compete(job: Job, on_step: Callable[[Status], None] = lambda status: None) -> Row:
    """Train and evaluate the head, once with each seed; interrupted runs go on.

    Raises:
        UserError: when the head cannot be built or trained (its row is the caller's to write).
    """
    torch.set_num_threads(job.threads)
    for path in job.head_files:
        load_head_file(path)
    train, val = FeatureCache(job.train), FeatureCache(job.val)
    entry = registry.entry(job.head)
    compares = job.options.get("prototypes", "text") == "text" and "text" in registry.choices(entry, "prototypes")
    by_text = job.text is not None and compares
    embeddings = read_embeddings(job.text) if by_text and job.text else None
    rows = embeddings.of(train.dataset.class_names) if embeddings else None
    config, device = TrainConfig(**job.training), torch.device(job.device)
    if job.minutes is not None:
        path = pace_path(job.arena, job.name)
        steps = steps_within(job.minutes, path, job.head, job.options, train, config, device, rows)
        config = replace(config, steps=steps)
    seeds = job.seeds or (config.seed,)
    reached = []
    steps = 0
    for number, seed in enumerate(seeds):
        run = run_folder(job.arena, job.name, seed if number else None)
        trainer = Trainer(
            job.head,
            job.options,
            train,
            val,
            run,
            replace(config, seed=seed),
            device=device,
            class_embeddings=rows,
            encoder=embeddings.encoder if embeddings else None,
        )

        def advance(status: Status, before: int = number) -> None:
            total = status.total_steps
            on_step(replace(status, step=before * total + status.step, total_steps=len(seeds) * total))

        steps, result = trainer.total_steps, trainer.fit(advance)
        detections = predict_cache(build_head(load_checkpoint(run)).to(device), val)
        if not number:
            atomic.write_json(detections_path(job.arena, job.name), detections, indent=None)
        reached.append(_measured(result, detections, val))
    checkpoint = load_checkpoint(run_folder(job.arena, job.name))
    head = build_head(checkpoint)
    cost = measure(head, train.feature_spec)
    return Row(
        head=job.name,
        summary=_summary(job),
        control=job.control,
        status="done",
        options=checkpoint.head_config,
        parameters=cost.parameters,
        gflops=round(cost.flops / 1e9, 3),
        candidates=cost.candidates,
        nms_free=head.nms_free,
        best_epoch=reached[0].result.best_epoch,
        steps=steps,
        seconds=round(sum(each.result.seconds for each in reached), 1),
        **_reached(seeds, reached),
    )


def _measured(result: TrainResult, detections: Sequence[Mapping[str, Any]], val: FeatureCache) -> Measured:
    judge = judge_at(val.dataset.coco_json(), detections, [IOU])
    half, errors = curves_of(judge).at_recall, find_errors(judge, val.dataset)
    return Measured(
        result,
        {
            **{name: result.metrics[name] for name in NAMES},
            "precision": half.precision,
            "false_detections": half.false_detections,
        },
        {name: values["AP"] for name, values in result.metrics["per_class"].items()},
        {kind.label: errors.cost(kind) for kind in WRONG},
    )


def _reached(seeds: Sequence[int], each: Sequence[Measured]) -> dict[str, Any]:
    """Statistics of a row: means over its seeds, with the spread of AP where there are several."""
    aps = [ap for one in each if (ap := one.metrics["AP"]) is not None]
    return {
        "metrics": _means([one.metrics for one in each]),
        "per_class": _means([one.per_class for one in each]),
        "errors": _means([one.errors for one in each]),
        "spread": stdev(aps) if 1 < len(aps) == len(each) else None,
        "seeds": tuple(
            SeedResult(
                seed=seed,
                metrics=one.metrics,
                best_epoch=one.result.best_epoch,
                seconds=round(one.result.seconds, 1),
            )
            for seed, one in zip(seeds, each, strict=True)
        ),
    }


def _means(values: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean of each; None where any is undefined."""
    columns = {name: [row[name] for row in values] for name in values[0]}
    return {
        name: fmean(known) if len(known := [value for value in column if value is not None]) == len(column) else None
        for name, column in columns.items()
    }


def failed(job: Job, error: str, status: Literal["failed", "stopped"] = "failed") -> Row:
    """The row of a head that could not finish, or was not let."""
    return Row(
        head=job.name,
        summary=_summary(job),
        control=job.control,
        status=status,
        error=error,
        options=job.options,
    )


def _summary(job: Job) -> str:
    if job.control is not None:
        return f"{job.head} with its idea {job.control.idea!r} turned off ({job.control.turned_off})."
    known = registry.entries().get(job.head)
    return known.summary if known else ""


def describe(error: BaseException) -> str:
    """An exception as one sentence."""
    if isinstance(error, UserError):
        return str(error)
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
