"""One head's part in an arena, in whatever process: train, evaluate, count, write the row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from detheads.arena.records import Row, SeedResult, detections_path, run_folder
from detheads.backbones.text import read_embeddings
from detheads.cache.reader import FeatureCache
from detheads.evaluation.coco import NAMES
from detheads.evaluation.predict import predict_cache
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.headkit.cost import measure
from detheads.headkit.head_file import load_head_file
from detheads.training.checkpoint import build_head, load_checkpoint
from detheads.training.config import TrainConfig
from detheads.training.status import Status, TrainResult
from detheads.training.trainer import Trainer


class Job(BaseModel):
    """All that a process needs to know to train one head of an arena. Paths are absolute.

    Attributes:
        threads: of this head's process.
        seeds: to train with, one after another; the training's own when empty.
        text: class embeddings for heads that compare with text.
        head_files: files of heads that are not in the package.
        device: torch's name of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arena: Path
    head: str
    options: dict[str, Any]
    train: Path
    val: Path
    training: dict[str, Any]
    threads: int
    seeds: tuple[int, ...] = ()
    text: Path | None = None
    head_files: tuple[Path, ...] = ()
    device: str = "cpu"


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
    config = TrainConfig(**job.training)
    seeds = job.seeds or (config.seed,)
    results = []
    for number, seed in enumerate(seeds):
        trainer = Trainer(
            job.head,
            job.options,
            train,
            val,
            run_folder(job.arena, job.head, seed if number else None),
            replace(config, seed=seed),
            device=torch.device(job.device),
            class_embeddings=embeddings.of(train.dataset.class_names) if embeddings else None,
            encoder=embeddings.encoder if embeddings else None,
        )

        def advance(status: Status, before: int = number) -> None:
            total = status.total_steps
            on_step(replace(status, step=before * total + status.step, total_steps=len(seeds) * total))

        results.append(trainer.fit(advance))
    checkpoint = load_checkpoint(run_folder(job.arena, job.head))
    head = build_head(checkpoint)
    atomic.write_json(detections_path(job.arena, job.head), predict_cache(head, val), indent=None)
    cost = measure(head, train.feature_spec)
    return Row(
        head=job.head,
        summary=entry.summary,
        status="done",
        options=checkpoint.head_config,
        parameters=cost.parameters,
        gflops=round(cost.flops / 1e9, 3),
        candidates=cost.candidates,
        nms_free=entry.head.nms_free,
        best_epoch=results[0].best_epoch,
        seconds=round(sum(result.seconds for result in results), 1),
        **_reached(seeds, results),
    )


def _reached(seeds: Sequence[int], results: Sequence[TrainResult]) -> dict[str, Any]:
    """Statistics of a row: those of the only seed, or the means of several with their spread."""
    metrics = [{name: result.metrics[name] for name in NAMES} for result in results]
    classes = [{name: values["AP"] for name, values in result.metrics["per_class"].items()} for result in results]
    if len(seeds) == 1:
        return {"metrics": metrics[0], "per_class": classes[0]}
    aps = [values["AP"] for values in metrics]
    return {
        "metrics": _means(metrics),
        "per_class": _means(classes),
        "spread": None if None in aps else stdev(aps),
        "seeds": tuple(
            SeedResult(seed=seed, metrics=values, best_epoch=result.best_epoch, seconds=round(result.seconds, 1))
            for seed, values, result in zip(seeds, metrics, results, strict=True)
        ),
    }


def _means(values: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean of each; None where any is undefined."""
    columns = {name: [row[name] for row in values] for name in values[0]}
    return {
        name: fmean(known) if len(known := [value for value in column if value is not None]) == len(column) else None
        for name, column in columns.items()
    }


def failed(job: Job, error: str) -> Row:
    """The row of a head that could not finish."""
    known = registry.entries().get(job.head)
    return Row(head=job.head, summary=known.summary if known else "", status="failed", error=error, options=job.options)


def describe(error: BaseException) -> str:
    """An exception as one sentence."""
    if isinstance(error, UserError):
        return str(error)
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
