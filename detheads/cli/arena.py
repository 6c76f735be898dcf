"""``detheads arena``: compare heads on one cache, or on many datasets."""

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from detheads.cli.arena_options import (
    ControlOption,
    ControlsFlag,
    DeviceOption,
    EarlyFlag,
    EpochsOption,
    GpusOption,
    HeadsOption,
    JobsOption,
    MinutesOption,
    OptionsOption,
    OutputOption,
    RayOption,
    StepsOption,
    TextOption,
    ThreadsOption,
    budget_of,
    contestants_of,
    where_of,
)
from detheads.cli.cache_build import parse_blocks
from detheads.cli.checks import require_caches, require_existing, require_outputs
from detheads.cli.options import (
    BackboneFile,
    BackboneOption,
    BatchOption,
    DecayOption,
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
from detheads.cli.workers import RetriesOption
from detheads.evaluation.coco import statistic_text
from detheads.foundation.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from detheads.arena.claims import Claim
    from detheads.arena.pool import Watch
    from detheads.arena.records import Row

app = typer.Typer(help="Train and compare heads under one budget; report; many domains.", no_args_is_help=True)


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
    epochs: EpochsOption = None,
    steps: StepsOption = None,
    minutes: MinutesOption = None,
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
    stop_early: EarlyFlag = False,
    device: DeviceOption = "",
    latency: Annotated[bool, typer.Option(help="Time every trained head in ONNX Runtime.")] = True,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Heads that failed or were stopped run again.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train and evaluate heads on the same features under the same budget. A head that fails is a row, not the end."""
    require_caches(cache, val)
    require_existing(text)
    require_outputs(folders=[output])

    from detheads.arena.claims import claims_of
    from detheads.arena.run import run_arena

    contestants = contestants_of(heads, option, head_file, with_controls, control)
    config = budget_of(epochs, steps, minutes, batch, lr, weight_decay, eval_every, precision, seed)
    where = where_of(jobs, threads, device, ray, gpus_per_head, retries)
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
            minutes=minutes,
            stop_early=stop_early,
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
    epochs: EpochsOption = None,
    steps: StepsOption = None,
    minutes: MinutesOption = None,
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
    stop_early: EarlyFlag = False,
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
    contestants = contestants_of(heads, option, head_file, with_controls, control)
    config = budget_of(epochs, steps, minutes, batch, lr, weight_decay, eval_every, precision, seed)
    if zero_shot is not None and text is None:
        raise UserError("--zero-shot needs the embeddings of all class names; give their file with --text.")
    where = where_of(jobs, threads, device, ray, gpus_per_head, retries)
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
                minutes=minutes,
                stop_early=stop_early,
            )
    emit(
        read_json(output / DOMAINS_NAME),
        as_json,
        lambda console: console.print(*markdown(result).splitlines(), sep="\n"),
    )


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
                f"AP {statistic_text(row.metrics['AP'], '.3f')}"
                if row.status == "done"
                else f"{row.status}: {row.error}"
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
        if row.status != "done":
            console.print(f"{row.head} {row.status}: {row.error}")
    console.print("false: wrong detections an image at IoU 0.5, where half of the objects are found")
    console.print(*(claim.told() for claim in claims), sep="\n", end="\n" if claims else "")
    console.print(f"{folder}; 'detheads arena report {folder}' draws and compares")
