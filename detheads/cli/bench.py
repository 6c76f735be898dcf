"""``detheads bench``: speed as ratios to a named baseline of the same run."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from detheads.cli.options import BackboneOption, RandomWeightsOption, SizeOption, WeightsOption, parse_size
from detheads.cli.output import JsonFlag, emit, progress
from detheads.cli.train import HeadOptions, parse_options

app = typer.Typer(help="Measure speed as a ratio to a named baseline of the same run.", no_args_is_help=True)


@app.command()
def cache(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder to cache.")],
    split: Annotated[str | None, typer.Option(help="Split of the dataset.")] = None,
    backbone: BackboneOption = "effnet_lite0",
    size: SizeOption = None,
    weights: WeightsOption = None,
    random_weights: RandomWeightsOption = False,
    images: Annotated[int, typer.Option(min=1, help="How many images to cache.")] = 200,
    batch: Annotated[int, typer.Option(min=1, help="Images in one forward pass.")] = 8,
    as_json: JsonFlag = False,
) -> None:
    """Images a second of caching over images a second of the bare backbone forward."""
    from detheads.backbones.backbone import load_backbone
    from detheads.bench import bench_cache
    from detheads.data import read_dataset
    from detheads.devices import pick_device

    data = read_dataset(dataset, split)
    data = replace(data, images=data.images[:images], objects=data.objects[:images])
    encoder = load_backbone(backbone, parse_size(size), weights=weights, random_weights=random_weights)
    with progress() as bar:
        task = bar.add_task("caching", total=len(data.images))
        result = bench_cache(
            data, encoder.to(pick_device()), batch, lambda done, total: bar.update(task, completed=done, total=total)
        )
    emit(
        asdict(result),
        as_json,
        lambda console: console.print(
            f"caching {result.caching:.2f} images/s, bare forward {result.bare_forward:.2f} images/s, "
            f"ratio {result.ratio:.3f}, peak memory {result.peak_memory_mb:.0f} MB ({result.images} images)"
        ),
    )


@app.command()
def train(
    cache: Annotated[Path, typer.Argument(help="Feature cache to read.")],
    head: Annotated[str, typer.Option(help="A name of 'detheads heads list'.")] = "split_tower",
    option: HeadOptions = None,
    batch: Annotated[int, typer.Option(min=1, help="Images a step.")] = 8,
    steps: Annotated[int, typer.Option(min=3, help="Steps of each kind.")] = 30,
    as_json: JsonFlag = False,
) -> None:
    """Time of a training step from the cache over that of a step on features in memory."""
    from detheads.bench import bench_train
    from detheads.cache.reader import FeatureCache

    result = bench_train(FeatureCache(cache), head, parse_options(option or []), batch, steps)
    emit(
        asdict(result),
        as_json,
        lambda console: console.print(
            f"a step takes {result.from_cache:.3f} s from the cache, {result.from_memory:.3f} s from memory, "
            f"ratio {result.ratio:.3f}, peak memory {result.peak_memory_mb:.0f} MB ({result.steps} steps each)"
        ),
    )
