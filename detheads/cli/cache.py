"""``detheads cache``: build, inspect and check feature caches; list backbones."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from detheads.backbones.spec import SPECS
from detheads.cache.manifest import StorageType
from detheads.cli.checks import require_existing, require_outputs
from detheads.cli.options import BackboneOption, RandomWeightsOption, SizeOption, WeightsOption, parse_size
from detheads.cli.output import JsonFlag, emit, remark, steps, table
from detheads.foundation.errors import UserError

app = typer.Typer(help="Build, inspect and check feature caches; list backbones.", no_args_is_help=True)

CacheArgument = Annotated[Path, typer.Argument(help="Folder of a feature cache.")]


@app.command()
def build(
    dataset: Annotated[Path, typer.Argument(help="COCO-style folder, Roboflow export or YOLO folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write the cache to.")],
    split: Annotated[str | None, typer.Option(help="Split of the dataset; 'train' when there are several.")] = None,
    backbone: BackboneOption = "eupe_vitb16",
    size: SizeOption = None,
    weights: WeightsOption = None,
    random_weights: RandomWeightsOption = False,
    layers: Annotated[str, typer.Option(help="Further transformer blocks to store, such as 2,5,8.")] = "",
    dtype: Annotated[StorageType, typer.Option(help="How features are stored; int8 comes with scales.")] = "fp16",
    flips: Annotated[bool, typer.Option("--flips", help="Store features of each mirrored image too.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Images in one forward pass.")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; a GPU where there is one when empty.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Extract backbone features once. Run again to finish an interrupted build or mend a damaged one."""
    from dataclasses import replace

    from detheads.data import read_dataset

    input_size, blocks = parse_size(size), parse_blocks(layers)
    require_existing(dataset, weights)
    require_outputs(folders=[output])
    data = read_dataset(dataset, split)

    from detheads.backbones.backbone import load_backbone
    from detheads.cache.builder import build_cache, settings_for
    from detheads.cache.reader import counted_objects
    from detheads.ops.devices import pick_device

    if limit is not None:
        data = replace(data, images=data.images[:limit], objects=data.objects[:limit])
    encoder = load_backbone(
        backbone,
        input_size,
        weights=weights,
        random_weights=random_weights,
        blocks=blocks,
    ).to(pick_device(device))
    settings = settings_for(encoder, dtype, flips)
    total = settings.bytes_per_image * len(data.images)
    remark(
        f"{len(data.images)} images of {data.name}/{data.split} through {backbone} ({encoder.spec.licence}) at "
        f"{settings.width}x{settings.height}: {total / 1e9:.2f} GB in {dtype}"
    )
    if data.dropped:
        remark("boxes left out or clipped: " + ", ".join(f"{count} {why}" for why, count in data.dropped.items()))
    if not counted_objects(data):
        remark(
            f"no object of {data.name}/{data.split} counts (crowd regions do not): nothing can be trained on or scored "
            "with this cache"
        )
    with steps() as on_progress:
        result = build_cache(
            data,
            encoder,
            output,
            dtype=dtype,
            flips=flips,
            batch_size=batch,
            on_progress=on_progress,
        )
    answer = {"cache": str(output), "images": result.images, "resumed": result.resumed, "bytes": result.bytes}
    emit(
        answer, as_json, lambda console: console.print(f"{output}: {result.images} images, {result.bytes / 1e9:.2f} GB")
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
        "detheads_version": manifest.detheads_version,
    }

    def render(console: Console) -> None:
        for key, value in answer.items():
            console.print(f"{key:18} {value}")

    emit(answer, as_json, render)


@app.command()
def verify(cache: CacheArgument, as_json: JsonFlag = False) -> None:
    """Compare every shard with its recorded checksum; exits 1 when one is damaged."""
    from detheads.cache.manifest import read_manifest
    from detheads.cache.reader import FeatureCache
    from detheads.cache.shard import check_shard

    manifest = read_manifest(cache)
    FeatureCache(cache)  # checks the annotations against the manifest
    damaged: list[str] = []
    with steps() as on_progress:
        for done, shard in enumerate(manifest.shards, start=1):
            try:
                check_shard(cache, shard)
            except UserError as error:
                damaged.append(str(error))
            on_progress("checking", done, len(manifest.shards))
    answer = {"cache": str(cache), "shards": len(manifest.shards), "damaged": damaged, "ok": not damaged}
    emit(
        answer,
        as_json,
        lambda console: console.print(*(damaged or [f"{cache}: {len(manifest.shards)} shards, all whole"]), sep="\n"),
    )
    if damaged:
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
        console.print("timm:NAME takes any other timm model that gives intermediate feature maps.")

    emit({"backbones": rows}, as_json, render)


def parse_blocks(text: str) -> tuple[int, ...]:
    """``"2,5,8"`` -> ``(2, 5, 8)``."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(f"--layers takes block numbers such as 2,5,8, not {text!r}.") from None
