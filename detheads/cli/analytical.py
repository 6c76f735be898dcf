"""``detheads analytical``: the detector that is solved, not trained."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from detheads.cli.checks import possible_threads, require_caches, require_existing, require_outputs, require_run
from detheads.cli.output import JsonFlag, emit, remark, steps, table
from detheads.cli.train import DataOption, HeadOptions, PicturesOption, parse_options
from detheads.cli.workers import AddressOption, RetriesOption, WorkersOption, workers_of
from detheads.evaluation.coco import NAMES, statistic_text
from detheads.foundation.errors import UserError

if TYPE_CHECKING:
    from detheads.analytical.config import Config
    from detheads.cache.reader import FeatureCache

app = typer.Typer(help="Fit a detector in closed form: statistics, solves, no gradient descent.", no_args_is_help=True)

CacheOption = Annotated[list[Path], typer.Option("--cache", help="Feature cache to fit on; one.")]
ClassOption = Annotated[
    list[str] | None, typer.Option("--class", help="Class to find; repeatable; all of the dataset without it.")
]
PresetOption = Annotated[str, typer.Option("--preset", help="reference (the source's detector) or refined.")]
ShrinkageOption = Annotated[float, typer.Option(help="Share of the identity in each covariance, 0 to 1.")]
AlphaOption = Annotated[float, typer.Option(help="Ridge penalty of anchors and boxes.")]
RegionAlphaOption = Annotated[float, typer.Option(help="Ridge penalty of the rounds.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, callback=possible_threads, help="CPU threads.")]
KEY_STATISTICS = ("AP", "AP50", "AP75", "AR100")


@app.command()
def fit(
    cache: CacheOption,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the model; a stopped fit goes on.")],
    val: Annotated[Path | None, typer.Option(help="Feature cache to evaluate on.")] = None,
    classes: ClassOption = None,
    preset: PresetOption = "refined",
    option: HeadOptions = None,
    shrinkage: ShrinkageOption = 0.01,
    alpha: AlphaOption = 100.0,
    region_alpha: RegionAlphaOption = 300.0,
    statistics: Annotated[
        list[Path] | None, typer.Option(help="Statistics of 'analytical collect' to merge; repeatable.")
    ] = None,
    threads: ThreadsOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Fit a detector on a cache. The model folder works with 'eval' and 'export' like a trained run."""
    (chosen,) = _only(cache)
    require_caches(chosen, val)
    require_existing(*(statistics or ()))
    require_outputs(folders=[output])

    from detheads.analytical.fit import fit as fit_model
    from detheads.analytical.solve import Strengths

    config, (train, evaluated) = _config(preset, option), _open(classes, threads, chosen, val)
    strengths = Strengths(shrinkage=shrinkage, alpha=alpha, region_alpha=region_alpha)
    with steps() as on_progress:
        result = fit_model(
            train, config, output, strengths=strengths, val=evaluated, parts=statistics or (), on_progress=on_progress
        )
    for line in result.remarks:
        remark(f"note: {line}")
    answer = {
        "model": str(output),
        "parameters": result.parameters,
        "images": result.images,
        "rows": result.rows,
        "seconds": result.seconds,
        "remarks": result.remarks,
        **{name: result.metrics[name] for name in NAMES if result.metrics},
    }
    spent = ", ".join(f"{step} {value:.1f} s" for step, value in result.seconds.items())
    reached = ", ".join(f"{name} {statistic_text(result.metrics[name])}" for name in KEY_STATISTICS if result.metrics)
    line = f"{output}: {result.parameters:,} parameters from {result.images} images ({result.rows:,} rows); {spent}"
    emit(answer, as_json, lambda console: console.print(line + (f"; {reached}" if reached else "")))


@app.command()
def collect(
    cache: CacheOption,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write; a stopped pass goes on.")],
    part: Annotated[str, typer.Option(help="Part I/N of the cache, such as 2/4.")] = "1/1",
    classes: ClassOption = None,
    preset: PresetOption = "refined",
    option: HeadOptions = None,
    like: Annotated[
        Path | None,
        typer.Option(help="Statistics or fitted model of another cache, whose anchors and options these are to have."),
    ] = None,
    threads: ThreadsOption = None,
    workers: WorkersOption = 0,
    address: AddressOption = None,
    retries: RetriesOption = 3,
    as_json: JsonFlag = False,
) -> None:
    """The statistics of one part of a cache, for a fit that merges them; processes and machines share a pass."""
    (chosen,) = _only(cache)
    where = workers_of(workers, address, threads=threads, retries=retries)
    require_caches(chosen)
    require_existing(like)
    require_outputs(files=[output])

    from detheads.analytical.fit import collect_part

    config, (train, _) = _config(preset, option), _open(classes, threads, chosen, None)
    with steps() as on_progress:
        statistics = collect_part(
            train, config, output, _part(part), on_progress, like, workers=where, on_remark=remark
        )
    size = output.stat().st_size
    answer = {
        "statistics": str(output),
        "part": part,
        "images": statistics.images,
        "rows": statistics.rows,
        "bytes": size,
    }
    line = f"{output}: {statistics.images} images, {statistics.rows:,} rows, {size / 1e6:.0f} MB"
    emit(answer, as_json, lambda console: console.print(line))


@app.command("eval")
def evaluate(
    model: Annotated[Path, typer.Argument(help="Folder of a fitted model.")],
    cache: Annotated[Path, typer.Option(help="Feature cache to evaluate on.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the report; MODEL/report without it.")
    ] = None,
    data: DataOption = None,
    pictures: PicturesOption = 8,
    threads: ThreadsOption = None,
    as_json: JsonFlag = False,
) -> None:
    """COCO statistics of a fitted model and a report: scores, errors, worst images, anchors, penalties."""
    require_existing(model, data)
    require_caches(cache)
    require_outputs(folders=[output])

    from detheads.analytical.report import write_report
    from detheads.training.checkpoint import load_checkpoint, matching_cache

    (opened, _) = _open(None, threads, cache, None)
    opened = matching_cache(load_checkpoint(model), opened)
    opened.require_objects("evaluate on")
    folder = output or model / "report"
    with steps() as on_progress:
        report = write_report(model, opened, folder, data=data, pictures=pictures, on_progress=on_progress)
    answer = {"report": str(folder / "report.md"), **{name: report.statistics[name] for name in NAMES}}

    def render(console: Console) -> None:
        console.print(table(("statistic", "value"), [(name, statistic_text(answer[name])) for name in NAMES]))
        console.print(f"report {folder / 'report.md'}")

    emit(answer, as_json, render)


@app.command()
def sweep(
    model: Annotated[Path, typer.Argument(help="Folder of a fitted model.")],
    cache: Annotated[Path, typer.Option(help="Feature cache to evaluate on.")],
    alphas: Annotated[str, typer.Option(help="Ridge penalties, separated by commas.")] = "1,10,100,1000,10000",
    shrinkages: Annotated[str, typer.Option(help="Shrinkages, separated by commas.")] = "0.01",
    threads: ThreadsOption = None,
    as_json: JsonFlag = False,
) -> None:
    """The first stage with other penalties: a solve each, never another pass over the training cache."""
    require_existing(model)
    require_caches(cache)

    from detheads.analytical.sweep import sweep as run_sweep

    (opened, _) = _open(None, threads, cache, None)
    with steps() as on_progress:
        points = run_sweep(model, opened, _numbers("alphas", alphas), _numbers("shrinkages", shrinkages), on_progress)
    rows: list[dict[str, Any]] = []
    for point in points:
        found = point.statistics.to_dict()
        rows.append(
            {
                "alpha": point.strengths.alpha,
                "shrinkage": point.strengths.shrinkage,
                **{name: found[name] for name in KEY_STATISTICS},
            }
        )
    answer = {"model": str(model), "points": rows}
    columns = ("alpha", "shrinkage", *KEY_STATISTICS)
    emit(answer, as_json, lambda console: console.print(table(columns, [_cells(row, columns) for row in rows])))


@app.command()
def ablate(
    cache: CacheOption,
    val: Annotated[Path, typer.Option(help="Feature cache to evaluate on.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the fits; finished rows are kept.")],
    classes: ClassOption = None,
    row: Annotated[list[str] | None, typer.Option("--row", help="Row to make; repeatable; all without it.")] = None,
    shrinkage: ShrinkageOption = 0.01,
    alpha: AlphaOption = 100.0,
    region_alpha: RegionAlphaOption = 300.0,
    threads: ThreadsOption = None,
    as_json: JsonFlag = False,
) -> None:
    """What each part is worth: the source's detector, its negative results, and what a closed form adds."""
    (chosen,) = _only(cache)
    require_caches(chosen, val)
    require_outputs(folders=[output])

    from detheads.analytical.ablation import ROWS
    from detheads.analytical.ablation import ablate as run_ablation
    from detheads.analytical.solve import Strengths
    from detheads.foundation import atomic

    train, evaluated = _open(classes, threads, chosen, val)
    assert evaluated is not None
    strengths = Strengths(shrinkage=shrinkage, alpha=alpha, region_alpha=region_alpha)
    with steps() as on_progress:
        rows = run_ablation(train, evaluated, output, row or list(ROWS), strengths, on_progress)
    answer = {"output": str(output), "rows": [each.to_dict() for each in rows]}
    atomic.write_json(output / "ablation.json", answer)
    columns = ("row", "parameters", *KEY_STATISTICS)
    emit(
        answer,
        as_json,
        lambda console: console.print(table(columns, [_cells(each, columns) for each in answer["rows"]])),
    )


@app.command()
def show(
    model: Annotated[Path, typer.Argument(help="Folder of a fitted model.")],
    as_json: JsonFlag = False,
) -> None:
    """The estimators of a fitted model, and what the columns are that each was fitted on; --json names every column."""
    require_run(model)

    from detheads.analytical.columns import describe_estimators

    found = describe_estimators(model)
    answer = {
        "model": str(model),
        "estimators": {
            each.name: {"kind": each.kind, "outputs": list(each.outputs), "columns": list(each.columns)}
            for each in found
        },
    }

    def render(console: Console) -> None:
        rows = [(each.name, each.kind, len(each.columns), each.summary, len(each.outputs)) for each in found]
        console.print(table(("estimator", "kind", "columns", "which are", "outputs"), rows))

    emit(answer, as_json, render)


def _only(caches: list[Path]) -> list[Path]:
    """The one cache that was given; a second one is refused, where click would take the last."""
    if len(caches) > 1:
        raise UserError(
            f"--cache is given {len(caches)} times; a fit looks at one cache. Join the datasets and build one cache, "
            "or collect statistics of each with 'detheads analytical collect' (--like for the second) and merge them "
            "with 'fit --statistics'."
        )
    return caches


def _cells(row: Any, columns: tuple[str, ...]) -> list[str]:
    return [statistic_text(row[name]) if name in KEY_STATISTICS else str(row[name]) for name in columns]


def _config(preset: str, options: list[str] | None) -> "Config":
    """A preset with some of its options replaced."""
    from dataclasses import asdict

    from detheads.analytical.config import preset as named
    from detheads.headkit import registry

    config: Config = registry.make_config(
        registry.entry("closed_form"), asdict(named(preset)) | parse_options(options or [])
    )
    return config


def _open(
    classes: list[str] | None, threads: int | None, cache: Path, val: Path | None
) -> "tuple[FeatureCache, FeatureCache | None]":
    """The caches with the chosen classes; the threads are set before the first tensor is made."""
    from detheads.analytical.plan import select_classes
    from detheads.cache.reader import FeatureCache
    from detheads.ops.devices import use_threads

    use_threads(threads)
    first = select_classes(FeatureCache(cache), classes or [])
    return first, None if val is None else select_classes(FeatureCache(val), classes or [])


def _part(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise UserError(f"--part reads I/N, such as 2/4, not {text!r}.")
    return int(index), int(count)


def _numbers(name: str, text: str) -> list[float]:
    try:
        return [float(each) for each in text.split(",")]
    except ValueError:
        raise UserError(f"--{name} takes numbers separated by commas, not {text!r}.") from None
