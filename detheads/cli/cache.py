"""``detheads cache``: build, inspect and check feature caches; list backbones."""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from detheads.backbones.spec import SPECS
from detheads.cache.manifest import StorageType
from detheads.cli.checks import require_existing, require_outputs
from detheads.cli.datasets import DatasetFolder, SplitName, read_split, remark_pictures, remark_skipped
from detheads.cli.options import (
    BackboneFile,
    BackboneOption,
    RandomWeightsOption,
    SizeOption,
    SkipBad,
    WeightsOption,
    parse_size,
    require_backbone_of,
)
from detheads.cli.output import JsonFlag, emit, remark, steps, table
from detheads.data.findings import counted
from detheads.foundation.atomic import sized
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import sides
from detheads.foundation.progress import Progress

if TYPE_CHECKING:
    from detheads.data import Dataset

app = typer.Typer(help="Build, inspect and check feature caches; list backbones.", no_args_is_help=True)

LONG = 60.0
"""Seconds; a build that takes longer is told so at its beginning."""
ESTIMATE_AFTER = 1.0
"""Seconds of caching, after the first batch, that the estimate rests on."""

CacheArgument = Annotated[Path, typer.Argument(help="Folder of a feature cache.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Only the first N images.")]


@app.command()
def build(
    dataset: DatasetFolder,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write the cache to.")],
    split: SplitName = None,
    backbone: BackboneOption = "eupe_vitb16",
    backbone_file: BackboneFile = None,
    size: SizeOption = None,
    weights: WeightsOption = None,
    random_weights: RandomWeightsOption = False,
    layers: Annotated[str, typer.Option(help="Further transformer blocks to store, such as 2,5,8.")] = "",
    dtype: Annotated[StorageType, typer.Option(help="How features are stored; int8 comes with scales.")] = "fp16",
    flips: Annotated[bool, typer.Option("--flips", help="Store features of each mirrored image too.")] = False,
    reuse: Annotated[
        list[Path] | None,
        typer.Option("--from", help="Finished cache whose features are taken for equal pictures; repeatable."),
    ] = None,
    skip_bad: SkipBad = False,
    batch: Annotated[int, typer.Option(min=1, help="Images in one forward pass.")] = 8,
    limit: LimitOption = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; a GPU where there is one when empty.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Extract backbone features once. Run again to finish, grow or mend a cache, or after pictures were replaced."""
    input_size, blocks = parse_size(size), parse_blocks(layers)
    require_existing(dataset, weights, *(reuse or ()))
    require_backbone_of(backbone_file, backbone)
    require_outputs(folders=[output])
    data = _read(dataset, split, limit, skip_bad)

    from detheads.backbones.backbone import load_backbone
    from detheads.cache.builder import build_cache, settings_for
    from detheads.cache.reader import counted_objects
    from detheads.ops.devices import pick_device

    encoder = load_backbone(backbone, input_size, weights=weights, random_weights=random_weights, blocks=blocks).to(
        pick_device(device)
    )
    settings = settings_for(encoder, dtype, flips)
    total = sized(settings.bytes_per_image * len(data.images))
    remark(
        f"{len(data.images)} images of {data.name}/{data.split} through {backbone} ({encoder.spec.licence}) at "
        f"{sides(settings.height, settings.width)}: {total} in {dtype}"
    )
    if not counted_objects(data):
        remark(
            f"no object of {data.name}/{data.split} counts (crowd regions do not): nothing can be trained on or scored "
            "with this cache"
        )
    remarks: list[str] = []
    with steps() as on_progress:
        result = build_cache(
            data,
            encoder,
            output,
            dtype=dtype,
            flips=flips,
            batch_size=batch,
            reuse=reuse or (),
            skip_bad=skip_bad,
            on_progress=told_in_advance(on_progress),
            on_remark=remarks.append,
        )
    remark_pictures(remarks)
    remark_skipped(result.skipped)
    if result.replaced:
        remark(f"{len(result.replaced)} pictures were replaced since the cache was built: {some(result.replaced)}")
    answer = {
        "cache": str(output),
        "images": result.images,
        "extracted": result.extracted,
        "resumed": result.resumed,
        "replaced": list(result.replaced),
        "left_out": result.skipped,
        "bytes": result.bytes,
    }
    there = f" ({result.extracted} extracted now, {result.resumed} were there)" if result.resumed else ""
    emit(
        answer,
        as_json,
        lambda console: console.print(f"{output}: {result.images} images, {sized(result.bytes)}{there}"),
    )


@app.command()
def annotate(
    cache: CacheArgument,
    dataset: DatasetFolder,
    split: SplitName = None,
    limit: LimitOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Give a finished cache the boxes and classes that a dataset has now; the pictures must be the same."""
    from detheads.cache.builder import annotate_cache
    from detheads.cache.reader import FeatureCache, counted_objects

    before = FeatureCache(cache).dataset
    with steps() as on_progress:
        manifest = annotate_cache(cache, _read(dataset, split, limit), on_progress)
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
        "dataset": manifest.dataset,
        "split": manifest.split,
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
    from detheads.cache.builder import compare_pictures
    from detheads.cache.reader import FeatureCache
    from detheads.cache.shard import ShardReader

    manifest = FeatureCache(cache).manifest  # checks the annotations against the manifest
    dataset = None if data is None else _read(data, split or manifest.split, limit)
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


def parse_blocks(text: str) -> tuple[int, ...]:
    """``"2,5,8"`` -> ``(2, 5, 8)``."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(f"--layers takes block numbers such as 2,5,8, not {text!r}.") from None


def some(names: Sequence[str], shown: int = 5) -> str:
    """The first names and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def told_in_advance(on_progress: Progress) -> Progress:
    """Reports on, and says how long the caching will take when its first pictures show that it is a matter of minutes.

    The very first ones tell nothing: libraries warm up with them.
    """
    began: tuple[float, int] | None = None
    told = False

    def report(step: str, done: int, total: int) -> None:
        nonlocal began, told
        on_progress(step, done, total)
        if step != "caching" or told:
            return
        now = time.monotonic()
        if began is None:
            began = (now, done) if done else None
        elif done > began[1] and now - began[0] >= ESTIMATE_AFTER:
            rate, told = (done - began[1]) / (now - began[0]), True
            if (total - done) / rate >= LONG:
                minutes = (total - done) / rate / 60
                remark(f"{rate:.1f} images/s: about {minutes:.0f} minutes for {total - done:,} images")

    return report


def _read(folder: Path, split: str | None, limit: int | None, skip_bad: bool = False) -> "Dataset":
    data = read_split(folder, split, skip_bad=skip_bad)
    if limit is not None:
        data = replace(data, images=data.images[:limit], objects=data.objects[:limit])
    if data.dropped:
        remark("boxes left out or clipped: " + ", ".join(f"{count} {why}" for why, count in data.dropped.items()))
    return data
