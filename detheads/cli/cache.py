"""``detheads cache``: build, join, inspect and check feature caches; list backbones."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from detheads.backbones.spec import SPECS
from detheads.cli import cache_build
from detheads.cli.cache_build import LimitOption, read_first
from detheads.cli.datasets import DatasetFolder, SplitName
from detheads.cli.output import JsonFlag, emit, steps, table
from detheads.data.findings import counted
from detheads.foundation.errors import UserError

app = typer.Typer(help="Build, inspect and check feature caches; list backbones.", no_args_is_help=True)
app.command()(cache_build.build)
app.command()(cache_build.merge)

CacheArgument = Annotated[Path, typer.Argument(help="Folder of a feature cache.")]


@app.command()
def annotate(
    cache: CacheArgument,
    dataset: DatasetFolder,
    split: SplitName = None,
    limit: LimitOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Give a finished cache the boxes and classes that a dataset has now; the pictures must be the same."""
    from detheads.cache.annotate import annotate_cache
    from detheads.cache.reader import FeatureCache, counted_objects

    before = FeatureCache(cache).dataset
    with steps() as on_progress:
        manifest = annotate_cache(cache, read_first(dataset, split, limit), on_progress)
    after = FeatureCache(cache).dataset
    answer = {
        "cache": str(cache),
        "images": len(manifest.images),
        "classes": after.class_names,
        "objects": counted_objects(after),
        "objects_before": counted_objects(before),
        "annotations_sha256": manifest.annotations_sha256,
    }
    emit(
        answer,
        as_json,
        lambda console: console.print(
            f"{cache}: {answer['objects']} objects of {len(after.categories)} classes "
            f"({answer['objects_before']} of {len(before.categories)} before) on the features there were"
        ),
    )


@app.command()
def info(cache: CacheArgument, as_json: JsonFlag = False) -> None:
    """What a cache holds and what it was made with."""
    from detheads.cache.manifest import read_manifest

    manifest = read_manifest(cache)
    answer = manifest.settings.model_dump(mode="json") | {
        "precision": manifest.settings.precision,
        "dataset": manifest.dataset,
        "split": manifest.split,
        "part": manifest.part and f"{manifest.part.number} of {manifest.part.of}",
        "images": len(manifest.images),
        "shards": len(manifest.shards),
        "bytes": len(manifest.images) * manifest.settings.bytes_per_image,
        "boxes_dropped": manifest.dropped,
        "left_out": manifest.skipped,
        "features_sha256": manifest.features_sha256,
        "annotations_sha256": manifest.annotations_sha256,
        "detheads_version": manifest.detheads_version,
    }
    emit(answer, as_json, lambda console: console.print(*(f"{key:20} {answer[key]}" for key in answer), sep="\n"))


@app.command()
def verify(
    cache: CacheArgument,
    data: Annotated[Path | None, typer.Option(help="Dataset folder: compare its pictures with those cached.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of --data; the cache's own when left out.")] = None,
    limit: LimitOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare every shard with its recorded checksum, and pictures with those cached; exits 1 at a difference."""
    from detheads.cache.annotate import compare_pictures
    from detheads.cache.reader import FeatureCache
    from detheads.cache.shard import ShardReader

    manifest = FeatureCache(cache).manifest  # checks the annotations against the manifest
    dataset = None if data is None else read_first(data, split or manifest.split, limit)
    faults: list[str] = []
    difference = None
    with steps() as on_progress:
        for done, shard in enumerate(manifest.shards, start=1):
            try:
                ShardReader(cache, shard, manifest.settings)
            except UserError as error:
                faults.append(str(error))
            on_progress("checking", done, len(manifest.shards))
        if dataset is not None:
            difference = compare_pictures(cache, dataset, on_progress)
    if difference:
        faults.append(
            f"{cache} was not built of the pictures that {data} has now ({difference.sentence}); "
            "run the same 'detheads cache build' again, which extracts only those."
        )
    compared = (
        "; the pictures were not looked at (--data DATASET compares them)"
        if dataset is None
        else f", {counted(len(dataset.images), 'picture')}, all as cached"
    )
    answer = {
        "cache": str(cache),
        "shards": len(manifest.shards),
        "damaged": faults if not difference else faults[:-1],
        "pictures": None if difference is None else asdict(difference),
        "ok": not faults,
    }
    whole = f"{cache}: {counted(len(manifest.shards), 'shard')}, all whole{compared}"
    emit(answer, as_json, lambda console: console.print(*(faults or [whole]), sep="\n"))
    if faults:
        raise typer.Exit(1)


@app.command()
def backbones(as_json: JsonFlag = False) -> None:
    """The known backbones with licence and feature shape at their default size."""
    rows = [
        {
            "name": spec.name,
            "timm_name": spec.timm_name,
            "licence": spec.licence,
            "size": spec.default_size,
            "layers": spec.shapes,
            "weights": spec.weights,
        }
        for spec in SPECS.values()
    ]

    def render(console: Console) -> None:
        cells = [
            (spec.name, spec.default_size, " + ".join("x".join(map(str, shape)) for shape in spec.shapes), spec.licence)
            for spec in SPECS.values()
        ]
        console.print(table(["name", "size", "features (C x H x W)", "licence of the weights"], cells))
        console.print(
            "timm:NAME takes any other timm model that gives intermediate feature maps of stride 8, 16 or 32; "
            "--backbone-file one of your own."
        )

    emit({"backbones": rows}, as_json, render)
