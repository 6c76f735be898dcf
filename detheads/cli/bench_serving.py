"""``detheads bench serve``: what serving over HTTP costs, and what batching brings."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from detheads.cli.checks import possible_threads, require_existing
from detheads.cli.options import BackendOption, BundleArgument
from detheads.cli.output import JsonFlag, emit, steps, table


def serve(
    bundle: BundleArgument,
    picture: Annotated[
        Path | None, typer.Option(help="A picture to send; a generated JPEG of 640x480 when left out.")
    ] = None,
    clients: Annotated[int, typer.Option(min=1, max=512, help="Clients that ask at the same time.")] = 16,
    max_batch: Annotated[int, typer.Option(min=2, max=1024, help="Pictures that may run together.")] = 8,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes of each server.")] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, callback=possible_threads, help="CPU threads of a run of the graph.")
    ] = None,
    backend: BackendOption = "cpu",
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Of each turn.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Turns of each.")] = 3,
    as_json: JsonFlag = False,
) -> None:
    """Pictures a second and latency of 'deploy serve' under load on loopback, over those of the bare session."""
    require_existing(picture)

    from detheads.bench.serving import bench_serving

    with steps() as on_progress:
        result = bench_serving(
            bundle,
            picture,
            clients=clients,
            max_batch=max_batch,
            seconds=seconds,
            rounds=rounds,
            threads=threads,
            backend=backend,
            workers=workers,
            on_progress=on_progress,
        )
    kinds = {"alone": result.alone, "single": result.single, "batched": result.batched}

    def render(console: Console) -> None:
        console.print(
            f"{result.runtime}; workers: {result.workers}; {result.rounds} turns of {result.seconds:g} s each, "
            "and as many of the bare session",
            f"batching gain {result.gain:.3f}; decoding and letterbox of a picture take {result.prepare_ms:.2f} ms",
            sep="\n",
        )
        rows = [
            (
                name,
                each.clients,
                each.max_batch,
                f"{each.rate:.1f}",
                f"{each.bare:.1f}",
                f"{each.ratio:.3f}",
                f"{each.p50:.1f}",
                f"{each.p99:.1f}",
                each.failed,
            )
            for name, each in kinds.items()
        ]
        titles = ("", "clients", "batch", "pictures/s", "bare", "ratio", "p50 ms", "p99 ms", "failed")
        console.print(table(titles, rows))

    answer = asdict(result) | {"gain": result.gain}
    for name, each in kinds.items():
        answer[name]["ratio"] = each.ratio
    emit(answer, as_json, render)
