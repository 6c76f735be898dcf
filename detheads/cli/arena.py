"""``detheads arena``: compare heads on one cache, or on many datasets."""

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from detheads.cli.cache_build import parse_blocks
from detheads.cli.checks import possible_threads, require_caches, require_existing, require_outputs
from detheads.cli.options import (
    BackboneFile,
    BackboneOption,
    BatchOption,
    DecayOption,
    EpochsOption,
    EveryOption,
    HeadFiles,
    PrecisionOption,
    RandomWeightsOption,
    RateOption,
    SeedOption,
    SeedsOption,
    SizeOption,
    WeightsOption,
    parse_seeds,
    parse_size,
    require_backbone_of,
)
from detheads.cli.output import JsonFlag, emit, progress, remark, table
from detheads.cli.train import parse_options
from detheads.cli.workers import RetriesOption, device_of
from detheads.evaluation.coco import statistic_text
from detheads.foundation.errors import UserError
from detheads.foundation.ray_cluster import Workers
from detheads.training.config import Precision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from detheads.arena.claims import Claim
    from detheads.arena.pool import Watch
    from detheads.arena.records import Row
    from detheads.arena.run import Contestants, Where
    from detheads.training.config import TrainConfig

app = typer.Typer(help="Train and compare heads under one budget; report; many domains.", no_args_is_help=True)

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
TextOption = Annotated[Path | None, typer.Option(help="Class embeddings for the heads that compare with text.")]
DeviceOption = Annotated[
    str,
    typer.Option(help="cpu, cuda, or several such as cuda:0,cuda:1; a GPU where there is one when empty."),
]
OutputOption = Annotated[Path, typer.Option("-o", "--output", help="Folder of the arena; started again it goes on.")]


@app.command()
def run(
    cache: Annotated[Path, typer.Option(help="Feature cache to train on.")],
    val: Annotated[Path, typer.Option(help="Feature cache to evaluate on.")],
    output: OutputOption,
    heads: HeadsOption = "all",
    option: OptionsOption = None,
    with_controls: ControlsFlag = False,
    control: ControlOption = None,
    head_file: HeadFiles = None,
    text: TextOption = None,
    epochs: EpochsOption = 12,
    batch: BatchOption = 8,
    lr: RateOption = 1e-3,
    weight_decay: DecayOption = 0.01,
    eval_every: EveryOption = 1,
    precision: PrecisionOption = "auto",
    seed: SeedOption = 0,
    seeds: SeedsOption = "",
    jobs: JobsOption = None,
    threads: ThreadsOption = None,
    ray: RayOption = None,
    gpus_per_head: GpusOption = 0.0,
    retries: RetriesOption = 3,
    device: DeviceOption = "",
    latency: Annotated[bool, typer.Option(help="Time every trained head in ONNX Runtime.")] = True,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Heads that failed run again.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train and evaluate heads on the same features under the same budget. A head that fails is a row, not the end."""
    require_caches(cache, val)
    require_existing(text)
    require_outputs(folders=[output])

    from detheads.arena.claims import claims_of
    from detheads.arena.run import run_arena

    contestants = _contestants(heads, option, head_file, with_controls, control)
    config = _budget(epochs, batch, lr, weight_decay, eval_every, precision, seed)
    where = _where(jobs, threads, device, ray, gpus_per_head, retries)
    with _watching(len(contestants.options)) as watch:
        rows = run_arena(
            contestants,
            cache,
            val,
            output,
            config,
            where=where,
            text=text,
            retry_failed=retry_failed,
            measure_latency=latency,
            watch=watch,
            seeds=parse_seeds(seeds),
        )
    claims = claims_of({output.name: rows})
    answer = {
        "arena": str(output),
        "rows": [row.model_dump() for row in rows],
        "claims": [claim.to_dict() for claim in claims],
    }
    emit(answer, as_json, lambda console: _render(console, rows, claims, output))


@app.command()
def report(
    arena: Annotated[Path, typer.Argument(help="Folder of an arena.")],
    data: Annotated[
        Path | None, typer.Option(help="Dataset folder of the validation images, for example pictures.")
    ] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Number of example pictures.")] = 4,
    as_json: JsonFlag = False,
) -> None:
    """Leaderboard (Markdown, JSON, CSV), AP against parameters, curves, pictures, and one page that works offline."""
    from dataclasses import asdict

    from detheads.arena.report import write_report

    files = asdict(write_report(arena, data=data, pictures=pictures))
    answer = {name: str(path) for name, path in files.items() if path is not None}
    emit(answer, as_json, lambda console: console.print(*answer.values(), sep="\n"))


@app.command()
def domains(
    root: Annotated[Path, typer.Argument(help="Folder with dataset folders in it (RF100-VL's, COCO, or any mix).")],
    output: OutputOption,
    heads: HeadsOption = "all",
    zero_shot: Annotated[
        Path | None,
        typer.Option(help="Run of a head trained with --text: evaluate it everywhere and train nothing; needs --text."),
    ] = None,
    backbone: BackboneOption = "eupe_vitb16",
    backbone_file: BackboneFile = None,
    size: SizeOption = None,
    weights: WeightsOption = None,
    random_weights: RandomWeightsOption = False,
    layers: Annotated[str, typer.Option(help="Further transformer blocks to store, such as 2,5,8.")] = "",
    flips: Annotated[bool, typer.Option("--flips", help="Store features of each mirrored training image too.")] = False,
    option: OptionsOption = None,
    with_controls: ControlsFlag = False,
    control: ControlOption = None,
    head_file: HeadFiles = None,
    text: TextOption = None,
    epochs: EpochsOption = 12,
    batch: BatchOption = 8,
    lr: RateOption = 1e-3,
    weight_decay: DecayOption = 0.01,
    eval_every: EveryOption = 1,
    precision: PrecisionOption = "auto",
    seed: SeedOption = 0,
    seeds: SeedsOption = "",
    jobs: JobsOption = None,
    threads: ThreadsOption = None,
    ray: RayOption = None,
    gpus_per_head: GpusOption = 0.0,
    retries: RetriesOption = 3,
    device: DeviceOption = "",
    as_json: JsonFlag = False,
) -> None:
    """The same heads on every dataset below a folder: each is cached once, trained on (or zero-shot), and ranked."""
    require_existing(root, text)
    require_outputs(folders=[output])

    from detheads.arena.domains import DOMAINS_NAME, Skipped, find_domains, markdown, run_domains, run_zero_shot
    from detheads.backbones.backbone import load_backbone
    from detheads.foundation.reading import read_json
    from detheads.ops.devices import pick_device

    require_backbone_of(backbone_file, backbone)
    found = find_domains(root)
    contestants = _contestants(heads, option, head_file, with_controls, control)
    config = _budget(epochs, batch, lr, weight_decay, eval_every, precision, seed)
    if zero_shot is not None and text is None:
        raise UserError("--zero-shot needs the embeddings of all class names; give their file with --text.")
    where = _where(jobs, threads, device, ray, gpus_per_head, retries)
    encoder = load_backbone(
        backbone, parse_size(size), weights=weights, random_weights=random_weights, blocks=parse_blocks(layers)
    ).to(pick_device("" if ray else where.devices[0]))
    remark(f"{sum(not isinstance(domain, Skipped) for domain in found)} domains below {root}")
    with _watching(len(contestants.options)) as watch, progress() as bar:
        tasks: dict[str, Any] = {}

        def on_cache(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(f"caching {name}", total=total)
            bar.update(tasks[name], completed=done, total=total)

        if zero_shot is not None and text is not None:
            result = run_zero_shot(found, zero_shot, text, encoder, output, on_cache=on_cache)
        else:
            result = run_domains(
                found,
                contestants,
                encoder,
                output,
                config,
                flips=flips,
                where=where,
                text=text,
                watch=watch,
                on_cache=on_cache,
                seeds=parse_seeds(seeds),
            )
    emit(
        read_json(output / DOMAINS_NAME),
        as_json,
        lambda console: console.print(*markdown(result).splitlines(), sep="\n"),
    )


def _contestants(
    heads: str, options: list[str] | None, files: list[Path] | None, with_controls: bool, named: list[str] | None
) -> "Contestants":
    from detheads.arena.controls import with_controls as and_controls
    from detheads.arena.run import choose

    chosen = choose(heads, list(parse_options(options or []).items()), files or ())
    return and_controls(chosen, named or ()) if with_controls or named else chosen


def _budget(
    epochs: int, batch: int, lr: float, weight_decay: float, eval_every: int, precision: Precision, seed: int
) -> "TrainConfig":
    from detheads.training.config import TrainConfig

    return TrainConfig(
        epochs=epochs,
        batch=batch,
        lr=lr,
        weight_decay=weight_decay,
        eval_every=eval_every,
        precision=precision,
        seed=seed,
    )


def _where(jobs: int | None, threads: int | None, device: str, ray: str | None, gpus: float, retries: int) -> "Where":
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


@contextmanager
def _watching(count: int) -> "Iterator[Watch]":
    """A bar for all heads and one for each that trains; a line for each row."""
    from detheads.arena.pool import Watch

    with progress() as bar:
        overall = bar.add_task("heads", total=count)
        tasks: dict[str, Any] = {}

        def on_step(head: str, step: int, total: int) -> None:
            if head not in tasks:
                tasks[head] = bar.add_task(head, total=total)
            bar.update(tasks[head], completed=step, total=total)

        def on_row(row: "Row") -> None:
            if row.head in tasks:
                bar.remove_task(tasks.pop(row.head))
            bar.advance(overall)
            outcome = (
                f"AP {statistic_text(row.metrics['AP'], '.3f')}" if row.status == "done" else f"failed: {row.error}"
            )
            bar.console.print(f"{row.head}: {outcome}", soft_wrap=True)

        yield Watch(
            on_step,
            on_row,
            lambda head: bar.update(overall, description=f"timing {head}"),
            lambda sentence: bar.console.print(sentence, soft_wrap=True),
        )


def _render(console: Console, rows: Sequence["Row"], claims: Sequence["Claim"], folder: Path) -> None:
    def number(value: float | None, pattern: str) -> str:
        return "" if value is None else format(value, pattern)

    cells = [
        (
            row.head,
            statistic_text(row.metrics["AP"], ".3f") + ("" if row.spread is None else f" ± {row.spread:.3f}"),
            statistic_text(row.metrics["AP50"], ".3f"),
            statistic_text(row.metrics.get("false_detections"), ".2f"),
            number(row.parameters, ","),
            number(row.gflops, ".2f"),
            number(row.milliseconds, ".1f"),
            number(None if row.seconds is None else row.seconds / 60, ".1f"),
        )
        for row in rows
        if row.status == "done"
    ]
    console.print(table(("head", "AP", "AP50", "false", "parameters", "GFLOPs", "ms", "minutes"), cells))
    for row in rows:
        if row.status == "failed":
            console.print(f"{row.head} failed: {row.error}")
    console.print("false: wrong detections an image at IoU 0.5, where half of the objects are found")
    console.print(*(claim.told() for claim in claims), sep="\n", end="\n" if claims else "")
    console.print(f"{folder}; 'detheads arena report {folder}' draws and compares")
