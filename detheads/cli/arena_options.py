"""What ``detheads arena run`` and ``domains`` have in common: which heads, under which budget, on what machines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detheads.cli.checks import possible_threads
from detheads.cli.train import parse_options
from detheads.cli.workers import device_of
from detheads.foundation.errors import UserError
from detheads.foundation.ray_cluster import Workers
from detheads.training.config import Precision

if TYPE_CHECKING:
    from detheads.arena.run import Contestants, Where
    from detheads.training.config import TrainConfig

HeadsOption = Annotated[str, typer.Option(help="Names separated by commas, or all.")]
OptionsOption = Annotated[
    list[str] | None,
    typer.Option("-O", "--option", help="width=64 for every head that has it, fcos.width=64 for one; repeatable."),
]
ControlsFlag = Annotated[
    bool, typer.Option("--with-controls", help="Each head beside itself without each of its ideas; give --seeds, too.")
]
ControlOption = Annotated[
    list[str] | None,
    typer.Option("--control", metavar="HEAD.IDEA", help="Only these of the controls; repeatable."),
]
EPOCHS = 12
EpochsOption = Annotated[
    int | None, typer.Option(min=1, help="Budget: passes over the cache.", show_default=str(EPOCHS))
]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Budget: optimiser steps, in place of --epochs.")]
MinutesOption = Annotated[
    float | None,
    typer.Option(min=0.01, help="Budget: minutes of training for every head, in place of --epochs."),
]
MANY = 100_000
"""Workers, as many as a cluster has room for."""

JobsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Heads that train at a time, each in a process of its own.",
        show_default="one on each device; on Ray as many as there is room for",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        callback=possible_threads,
        help="CPU threads of each head.",
        show_default="its share of the cores; 1 on Ray",
    ),
]
RayOption = Annotated[
    str | None,
    typer.Option("--ray", help="Address of a Ray cluster, or auto, that trains the heads instead of this machine."),
]
GpusOption = Annotated[
    float, typer.Option("--gpus-per-head", min=0, help="GPUs of a head on Ray; parts of one are possible.")
]
EarlyFlag = Annotated[bool, typer.Option("--stop-early", help="On Ray: end heads that are hopeless early (ASHA).")]
TextOption = Annotated[Path | None, typer.Option(help="Class embeddings for the heads that compare with text.")]
DeviceOption = Annotated[
    str,
    typer.Option(help="cpu, cuda, or several such as cuda:0,cuda:1; a GPU where there is one when empty."),
]
OutputOption = Annotated[Path, typer.Option("-o", "--output", help="Folder of the arena; started again it goes on.")]


def contestants_of(
    heads: str, options: list[str] | None, files: list[Path] | None, with_controls: bool, named: list[str] | None
) -> "Contestants":
    from detheads.arena.controls import with_controls as and_controls
    from detheads.arena.run import choose

    chosen = choose(heads, list(parse_options(options or []).items()), files or ())
    return and_controls(chosen, named or ()) if with_controls or named else chosen


def budget_of(
    epochs: int | None,
    steps: int | None,
    minutes: float | None,
    batch: int,
    lr: float,
    weight_decay: float,
    eval_every: int,
    precision: Precision,
    seed: int,
) -> "TrainConfig":
    """The training of every head; minutes become steps where it is trained."""
    from detheads.training.config import TrainConfig

    given = {"--epochs": epochs, "--steps": steps, "--minutes": minutes}
    if len(named := [name for name, value in given.items() if value is not None]) > 1:
        raise UserError(f"{' and '.join(named)} are budgets both; give one of them.")
    return TrainConfig(
        epochs=epochs or EPOCHS,
        steps=steps or 0,
        batch=batch,
        lr=lr,
        weight_decay=weight_decay,
        eval_every=eval_every,
        precision=precision,
        seed=seed,
    )


def where_of(jobs: int | None, threads: int | None, device: str, ray: str | None, gpus: float, retries: int) -> "Where":
    from detheads.arena.run import Where
    from detheads.ops.devices import pick_device

    names = [name.strip() for name in device.split(",")]
    if ray is None:
        if gpus:
            raise UserError("--gpus-per-head is of workers on Ray; give the address of a cluster with --ray.")
        devices = tuple(str(pick_device(name)) for name in names)
        if len(set(devices)) < len(devices):
            raise UserError(f"--device {device} names one twice; --jobs trains several heads at a time on it.")
        if jobs is not None and jobs < len(devices):
            raise UserError(f"--jobs {jobs} leaves some of the {len(devices)} devices idle; name fewer with --device.")
        return Where(jobs, threads, devices)
    workers = Workers(jobs or MANY, ray, gpus, threads or 1, retries)
    return Where(devices=(device_of(workers, device, "--gpus-per-head"),), ray=workers)
