"""``detheads bench``: speed as ratios to a named baseline of the same run."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from detheads.cli import bench_engines, bench_exports, bench_running, bench_serving, bench_steps
from detheads.cli.checks import possible_threads, require_caches, require_heads
from detheads.cli.options import (
    BackboneFile,
    BackboneOption,
    BackbonePrecision,
    PrecisionOption,
    RandomWeightsOption,
    SizeOption,
    WeightsOption,
    parse_size,
    require_backbone_of,
)
from detheads.cli.output import JsonFlag, emit
from detheads.cli.output import steps as progress_of_steps
from detheads.cli.train import HeadOptions, parse_options

app = typer.Typer(help="Measure speed as a ratio to a named baseline of the same run.", no_args_is_help=True)
app.command()(bench_engines.engines)
app.command()(bench_exports.graph)
app.command()(bench_exports.export)
app.command()(bench_serving.serve)
app.command()(bench_running.run)
app.command()(bench_running.tiles)
app.command()(bench_steps.step)


@app.command()
def cache(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder to cache.")],
    split: Annotated[str | None, typer.Option(help="Split of the dataset.")] = None,
    backbone: BackboneOption = "effnet_lite0",
    backbone_file: BackboneFile = None,
    size: SizeOption = None,
    weights: WeightsOption = None,
    random_weights: RandomWeightsOption = False,
    images: Annotated[int, typer.Option(min=1, help="How many images to cache.")] = 200,
    batch: Annotated[int, typer.Option(min=1, help="Images in one forward pass.")] = 8,
    precision: BackbonePrecision = "fp32",
    threads: Annotated[int | None, typer.Option(min=1, callback=possible_threads, help="CPU threads.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; a GPU where there is one when empty.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Images a second of caching over images a second of the bare backbone forward."""
    from detheads.backbones.backbone import load_backbone
    from detheads.bench.caching import bench_cache
    from detheads.data import read_dataset
    from detheads.ops.devices import pick_device, use_threads

    use_threads(threads)
    require_backbone_of(backbone_file, backbone)
    data = read_dataset(dataset, split)
    data = replace(data, images=data.images[:images], objects=data.objects[:images])
    encoder = load_backbone(backbone, parse_size(size), weights=weights, random_weights=random_weights)
    with progress_of_steps() as on_progress:
        result = bench_cache(data, encoder.to(pick_device(device)).computing_in(precision), batch, on_progress)
    emit(
        asdict(result),
        as_json,
        lambda console: console.print(
            f"caching {result.caching:.2f} images/s, bare forward {result.bare_forward:.2f} images/s (baseline), "
            f"ratio {result.ratio:.3f}, waiting for pictures {result.waiting:.1%} of the time ({result.device}, "
            f"{result.precision}; {result.images} images; peak memory {result.peak_memory_mb:.0f} MB)"
        ),
    )


@app.command()
def train(
    cache: Annotated[Path, typer.Argument(help="Feature cache to read.")],
    head: Annotated[str, typer.Option(help="A name of 'detheads heads list'.")] = "split_tower",
    option: HeadOptions = None,
    batch: Annotated[int, typer.Option(min=1, help="Images a step.")] = 8,
    precision: PrecisionOption = "auto",
    steps: Annotated[int, typer.Option(min=3, help="Steps of an epoch at most; there are three of each kind.")] = 100,
    readers: Annotated[
        int | None,
        typer.Option(min=1, callback=possible_threads, help="Threads that read.", show_default="as train does"),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, callback=possible_threads, help="CPU threads.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; a GPU where there is one when empty.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Time of training steps in epochs fed by the cache over that of steps on features in memory."""
    require_heads([head], None)
    require_caches(cache)

    from detheads.bench.training import bench_train
    from detheads.cache.reader import FeatureCache
    from detheads.ops.devices import pick_device, use_threads
    from detheads.training.config import TrainConfig

    use_threads(threads)
    options, config = parse_options(option or []), TrainConfig(batch=batch, precision=precision)
    with progress_of_steps() as on_progress:
        result = bench_train(
            FeatureCache(cache),
            head,
            options,
            config,
            steps=steps,
            device=pick_device(device),
            readers=readers,
            on_progress=on_progress,
        )
    emit(
        asdict(result),
        as_json,
        lambda console: console.print(
            f"a step takes {result.from_cache:.3f} s from the cache, {result.from_memory:.3f} s from memory "
            f"(baseline), ratio {result.ratio:.3f}; {result.images_per_second:.1f} images/s from the cache, waiting "
            f"{result.waiting:.1%} of the time ({result.device}; {result.blocks} epochs of {result.steps} steps of "
            f"{result.batch} images; peak memory {result.peak_memory_mb:.0f} MB)"
        ),
    )


@app.command()
def analytical(
    rows: Annotated[int, typer.Option(min=1000, help="Rows of the streamed pass.")] = 200_000,
    dimensions: Annotated[int, typer.Option(min=1, help="Channels of a row.")] = 768,
    fit_rows: Annotated[int, typer.Option(min=1000, help="Rows of the fit against scikit-learn.")] = 40_000,
    repeats: Annotated[int, typer.Option(min=1, help="Fits of each kind.")] = 3,
    memory: Annotated[bool, typer.Option("--memory", help="Measure peak memory, too (takes minutes).")] = False,
    memory_rows: Annotated[
        list[int] | None,
        typer.Option(
            min=1000, help="Measure the memory of a fit to so many rows; repeatable (--memory: 200000, 5 million)."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Rows a second of the closed form's pass over those of the bare matrix product; its fit against scikit-learn's."""
    from detheads.bench.closed_form import AnalyticalBench, bench_analytical

    sizes = memory_rows or ([200_000, 5_000_000] if memory else [])

    def render(result: AnalyticalBench) -> list[str]:
        streaming, fit = result.streaming, result.fit
        return [
            f"pass {streaming.streamed:,.0f} rows/s, bare product {streaming.product:,.0f} rows/s (baseline), "
            f"ratio {streaming.ratio:.3f} ({streaming.rows:,} rows of {result.dimensions}, {result.threads} threads)",
            f"fit {fit.streamed:.2f} s, scikit-learn {fit.svd:.2f} s (svd, its default; baseline) and "
            f"{fit.lsqr:.2f} s (lsqr), {fit.svd_ratio:.1f} and {fit.lsqr_ratio:.1f} times as long ({fit.rows:,} rows)",
            *(f"peak memory {m.peak_memory_mb:.0f} MB at {m.rows:,} rows ({m.seconds:.0f} s)" for m in result.memory),
            f"estimate, not measured: the pass over {streaming.estimated_rows:,} rows takes "
            f"{streaming.estimated_minutes:.1f} minutes",
        ]

    with progress_of_steps() as on_progress:
        result = bench_analytical(rows, dimensions, fit_rows, repeats, sizes, on_progress)
    emit(asdict(result), as_json, lambda console: console.print(*render(result), sep="\n"))
