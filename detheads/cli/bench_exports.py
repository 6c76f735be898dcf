"""``detheads bench graph`` and ``bench export``: what takes the time in a shipped graph, and in making it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from detheads.cli.checks import possible_threads, require_existing, require_run
from detheads.cli.export import WhichOption, parse_which
from detheads.cli.options import WeightsOption
from detheads.cli.output import JsonFlag, emit, steps, table


def graph(
    bundle: Annotated[Path, typer.Argument(help="Folder NAME.detheads.")],
    picture: Annotated[Path | None, typer.Option(help="A picture to run; seeded noise when left out.")] = None,
    threads: Annotated[int, typer.Option(min=1, callback=possible_threads, help="CPU threads.")] = 1,
    rounds: Annotated[int, typer.Option(min=3, help="Runs of the graph.")] = 40,
    as_json: JsonFlag = False,
) -> None:
    """Milliseconds of a bundle's graph on the CPU by kind of operator, and how many of them are products."""
    require_existing(picture)

    from detheads.bench.graph import PRODUCTS, bench_graph

    with steps() as on_progress:
        result = bench_graph(bundle, picture, threads, rounds, on_progress)

    def render(console: Console) -> None:
        console.print(
            f"{result.milliseconds:.2f} ms a picture ({result.threads} threads, least of {result.rounds}), "
            f"{result.suppression:.2f} ms of it suppression ({result.detections} detections); {result.nodes} nodes, "
            f"{result.suppression_nodes} of them suppression"
        )
        console.print(f"convolutions and matrix products: {result.share:.3f} of the time")
        rows = [(kind, f"{spent:.3f}", "yes" if kind in PRODUCTS else "") for kind, spent in result.kinds.items()]
        console.print(table(("operator", "ms", "product"), rows))

    emit(asdict(result), as_json, render)


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    which: WhichOption = "best",
    weights: WeightsOption = None,
    tensorrt: Annotated[bool, typer.Option("--tensorrt/--onnx-only", help="Build a TensorRT engine too.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Seconds and peak memory from a checkpoint to a bundle without its proof, by step; the bundle is thrown away."""
    require_run(run)
    require_existing(weights)
    chosen = parse_which(which)

    from detheads.bench.exporting import bench_export

    with steps() as on_progress:
        result = bench_export(run, which=chosen, weights=weights, tensorrt=tensorrt, on_progress=on_progress)

    def render(console: Console) -> None:
        console.print(
            f"{result.seconds:.1f} s, peak memory {result.peak_memory_mb:,.0f} MB, bundle {result.bytes / 1e6:.1f} MB"
        )
        console.print(table(("step", "s"), [(title, f"{spent:.2f}") for title, spent in result.steps.items()]))

    emit(asdict(result), as_json, render)
