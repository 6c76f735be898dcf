"""``detheads bench run`` and ``bench tiles``: a run beside its detector, and what tiles find on large pictures."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from detheads.cli.checks import possible_threads
from detheads.cli.options import BackendOption, BundleArgument
from detheads.cli.output import JsonFlag, emit, remark, steps, table

ThreadsOption = Annotated[int | None, typer.Option(min=1, callback=possible_threads, help="CPU threads.")]


def run(
    bundle: BundleArgument,
    images: Annotated[list[str], typer.Argument(help="Pictures, patterns or folders, as for 'deploy run'.")],
    count: Annotated[int, typer.Option("--images", min=1, help="How many of them, at most.")] = 100,
    batch: Annotated[int, typer.Option(min=1, help="Pictures in one run of the graph.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each is measured, in turns.")] = 5,
    threads: ThreadsOption = None,
    backend: BackendOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Images a second of 'deploy run' over those of the Detector on the same files."""
    from detheads.bench.running import bench_run
    from detheads.deploy.detector import Detector
    from detheads.deploy.inputs import collect_images

    inputs = collect_images(images, on_remark=remark)[:count]
    detector = Detector.load(bundle, backend=backend, threads=threads)
    with steps() as on_progress:
        result = bench_run(detector, inputs, batch, rounds, on_progress)
    emit(
        asdict(result),
        as_json,
        lambda console: console.print(
            f"deploy run {result.run:.2f} images/s ({result.drawn:.2f} with pictures), Detector {result.detector:.2f} "
            f"images/s (baseline), ratio {result.ratio:.3f} ({result.drawn_ratio:.3f} with pictures), by processor "
            f"time {result.cpu_ratio:.3f} ({result.images} images, batch {result.batch}, median of {result.rounds})"
        ),
    )


def tiles(
    bundle: BundleArgument,
    dataset: Annotated[Path, typer.Argument(help="Dataset folder whose pictures are laid side by side.")],
    split: Annotated[str | None, typer.Option(help="Split of the dataset.")] = None,
    grid: Annotated[int, typer.Option(min=1, max=16, help="Pictures along a side of a mosaic.")] = 4,
    tile: Annotated[int, typer.Option(help="Side of a tile, pixels of the mosaic.")] = 640,
    overlap: Annotated[float, typer.Option(help="Share of a tile's side that the next one has, too.")] = 0.2,
    images: Annotated[int, typer.Option(min=1, help="How many pictures, at most.")] = 1000,
    batch: Annotated[int, typer.Option(min=1, help="Tiles in one run of the graph.")] = 4,
    threads: ThreadsOption = None,
    backend: BackendOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """AP by size of objects on mosaics of a dataset's pictures, run whole and in tiles, and of each picture alone."""
    from detheads.bench.tiling import bench_tiles
    from detheads.data import read_dataset
    from detheads.deploy.detector import Detector
    from detheads.deploy.tiles import Tiling
    from detheads.evaluation.coco import statistic_text

    Tiling(tile, overlap)
    data = read_dataset(dataset, split)
    data = replace(data, images=data.images[:images], objects=data.objects[:images])
    detector = Detector.load(bundle, backend=backend, threads=threads)
    with steps() as on_progress:
        result = bench_tiles(detector, data, grid, tile, overlap, batch, on_progress)

    def render(console: Console) -> None:
        console.print(
            f"{result.images} pictures in {result.mosaics} mosaics of {result.width}x{result.height} pixels, tiles of "
            f"{result.tile} that overlap by {result.overlap:g}"
        )
        rows = [
            (way.name, *(statistic_text(value) for value in (way.AP, way.APs, way.APm, way.APl)), f"{way.seconds:.2f}")
            for way in result.ways
        ]
        console.print(table(("", "AP", "AP small", "AP medium", "AP large", "s a mosaic"), rows))

    emit(asdict(result), as_json, render)
