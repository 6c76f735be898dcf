"""``detheads deploy bench``: how long bundles take here, beside what was proven of them."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from detheads.cli.checks import require_outputs
from detheads.cli.options import BundleArgument, parse_counts
from detheads.cli.output import JsonFlag, emit, remark, steps, table
from detheads.foundation.cores import check_threads

if TYPE_CHECKING:
    from detheads.deploy.benchmark.result import BenchResult

LARGEST_BATCH = 1024
"""As of 'deploy run'."""
MOST_THREADS = 4096


def bench(
    bundle: BundleArgument,
    compare: Annotated[
        list[Path] | None, typer.Option(help="Another bundle, in turns with the first; repeatable.")
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="cpu, auto, cuda, openvino, ..., as 'deploy run' takes it; repeatable.", show_default="cpu"),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(help="Pictures, patterns or folders; repeatable.", show_default="the bundle's probes"),
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, such as 1,4,8.")] = "1",
    threads: Annotated[
        str | None, typer.Option(help="CPU threads, such as 1,2.", show_default="the library's own choice")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, max=100_000, help="Runs of each contender and batch size.")] = 100,
    seconds: Annotated[
        float, typer.Option(min=0, max=86_400, help="Fewer runs where a batch size takes longer than this.")
    ] = 60.0,
    pause: Annotated[
        float, typer.Option(min=0, max=60, help="Seconds of rest before each run; longer where the machine gets hot.")
    ] = 0.01,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="New folder for bench.json, bench.md and bench.svg.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure latency, throughput and where the time goes, beside the proven AP.

    Bundles, backends and numbers of threads take turns in one run on the same pictures, so that ratios are fair.
    """
    batches = parse_counts(batch, "--batch", LARGEST_BATCH)
    numbers: tuple[int | None, ...] = (None,)
    if threads is not None:
        numbers = parse_counts(threads, "--threads", MOST_THREADS)
        for number in numbers:
            check_threads(number)
    require_outputs(folders=[output])

    from detheads.deploy.benchmark.contenders import find_pictures, open_contenders
    from detheads.deploy.benchmark.measure import Plan
    from detheads.deploy.benchmark.measure import bench as measure
    from detheads.deploy.benchmark.plot import svg
    from detheads.deploy.benchmark.report import markdown
    from detheads.foundation import atomic
    from detheads.foundation.claims import new_folder

    pictures, source = find_pictures(bundle, images or (), on_remark=remark)
    contenders = open_contenders([bundle, *(compare or ())], backend or ["cpu"], numbers, on_remark=remark)
    with nullcontext() if output is None else new_folder(output) as folder:  # refused before anything is measured
        with steps() as on_progress:
            plan = Plan(batches, runs, seconds, pause)
            result = measure(contenders, pictures, plan, source=source, on_progress=on_progress)
        if folder is not None:
            atomic.write_json(folder / "bench.json", result.to_dict())
            atomic.write_text(folder / "bench.md", markdown(result))
            atomic.write_text(folder / "bench.svg", svg(result))
    emit(result.to_dict(), as_json, lambda console: _print(console, result, output))


def _print(console: Console, result: "BenchResult", folder: Path | None) -> None:
    from detheads.deploy.benchmark.report import notes, tables

    for columns, rows in tables(result):
        shown = table(columns, rows)
        for column in shown.columns[1:]:
            column.no_wrap = True  # names may be folded, figures not
        console.print(shown)
    console.print(*notes(result), sep="\n")
    if folder is not None:
        console.print(f"written: {folder}")
