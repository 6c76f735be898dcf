"""``detheads cache build``, and ``merge`` of a build in parts."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detheads.cache.manifest import StorageType
from detheads.cache.parts import Part
from detheads.cli.checks import possible_threads, require_existing, require_outputs
from detheads.cli.datasets import DatasetFolder, SplitName, read_split, remark_pictures, remark_skipped
from detheads.cli.options import (
    BackboneFile,
    BackboneOption,
    BackbonePrecision,
    RandomWeightsOption,
    SizeOption,
    SkipBad,
    WeightsOption,
    parse_size,
    require_backbone_of,
)
from detheads.cli.output import JsonFlag, emit, remark, steps
from detheads.cli.workers import AddressOption, GpusOption, RetriesOption, WorkersOption, device_of, workers_of
from detheads.foundation.atomic import sized
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import sides
from detheads.foundation.progress import Progress

if TYPE_CHECKING:
    from detheads.data import Dataset

LONG = 60.0
"""Seconds; a build that takes longer is told so at its beginning."""
ESTIMATE_AFTER = 1.0
"""Seconds of caching, after the first batch, that the estimate rests on."""

LimitOption = Annotated[int | None, typer.Option(min=1, help="Only the first N images.")]


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
    precision: BackbonePrecision = "fp32",
    depth: Annotated[
        Path | None,
        typer.Option(help="Folder of inverse depth maps, NAME.npy or NAME.png a picture, to store beside."),
    ] = None,
    reuse: Annotated[
        list[Path] | None,
        typer.Option("--from", help="Finished cache whose features are taken for equal pictures; repeatable."),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only part I of N, into OUTPUT/part-I-of-N; 'cache merge' joins them."),
    ] = None,
    skip_bad: SkipBad = False,
    batch: Annotated[int, typer.Option(min=1, help="Images in one forward pass.")] = 8,
    limit: LimitOption = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; a GPU where there is one when empty.")] = "",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=possible_threads,
            help="CPU threads; of each worker.",
            show_default="torch's own choice; 1 of a worker",
        ),
    ] = None,
    workers: WorkersOption = 0,
    address: AddressOption = None,
    gpus_per_worker: GpusOption = 0.0,
    retries: RetriesOption = 3,
    as_json: JsonFlag = False,
) -> None:
    """Extract backbone features once. Run again to finish, grow or mend a cache, or after pictures were replaced."""
    input_size, blocks, chosen = parse_size(size), parse_blocks(layers), None if part is None else Part.parse(part)
    where = workers_of(workers, address, gpus_per_worker, threads, retries)
    if where.count and (chosen is not None or reuse):
        raise UserError("--workers divides a whole build by itself; leave out --part and --from, or --workers.")
    if where.count and depth is not None:
        raise UserError("--workers reads no depth maps; leave it out, or --depth (--part divides such a build).")
    require_existing(dataset, weights, depth, *(reuse or ()))
    require_backbone_of(backbone_file, backbone)
    require_outputs(folders=[output])
    data = read_first(dataset, split, limit, skip_bad)

    from detheads.backbones.backbone import load_backbone
    from detheads.cache.builder import build_cache, settings_for
    from detheads.cache.depth import DepthMaps
    from detheads.cache.reader import counted_objects
    from detheads.cache.sizes import other_sizes
    from detheads.ops.devices import pick_device, use_threads

    use_threads(threads)
    on_what = device_of(where, device) if where.count else ""
    encoder = load_backbone(backbone, input_size, weights=weights, random_weights=random_weights, blocks=blocks).to(
        pick_device("cpu" if where.count else device)
    )
    encoder.computing_in(precision)
    maps = None if depth is None else DepthMaps(depth, data.images)
    settings = settings_for(encoder, dtype, flips, maps)
    images = len((data if chosen is None else chosen.of_dataset(data, settings)).images)
    share = "" if chosen is None else f"{chosen}, "
    total = sized(settings.bytes_per_image * images)
    others = "; ".join(f"{how}: {sized(size)}" for how, size in other_sizes(settings, images).items())
    remark(
        f"{share}{images} images of {data.name}/{data.split} through {backbone} ({encoder.spec.licence}) at "
        f"{sides(settings.height, settings.width)}: {total} in {dtype}"
        f"{'' if precision == 'fp32' else f', computed in {precision}'} ({others})"
    )
    if not counted_objects(data):
        remark(
            f"no object of {data.name}/{data.split} counts (crowd regions do not): nothing can be trained on or scored "
            "with this cache"
        )
    remarks: list[str] = []
    with steps() as on_progress:
        if where.count:
            from detheads.cache.on_ray import Recipe, build_on_ray

            recipe = Recipe(
                folder=dataset.resolve(),
                split=data.split,
                skip_bad=skip_bad,
                limit=limit,
                backbone=backbone,
                backbone_file=backbone_file and backbone_file.resolve(),
                size=input_size,
                weights=weights and weights.resolve(),
                random_weights=random_weights,
                blocks=blocks,
                dtype=dtype,
                flips=flips,
                precision=precision,
                batch_size=batch,
                device=on_what,
            )
            result = build_on_ray(
                data,
                encoder,
                output,
                recipe,
                where,
                on_progress=told_in_advance(on_progress),
                on_remark=remark,
                on_picture=remarks.append,
            )
        else:
            result = build_cache(
                data,
                encoder,
                output,
                dtype=dtype,
                flips=flips,
                batch_size=batch,
                reuse=reuse or (),
                skip_bad=skip_bad,
                part=chosen,
                depth=maps,
                on_progress=told_in_advance(on_progress),
                on_remark=remarks.append,
            )
    remark_pictures(remarks)
    remark_skipped(result.skipped)
    if result.replaced:
        remark(f"{len(result.replaced)} pictures were replaced since the cache was built: {some(result.replaced)}")
    answer = {
        "cache": str(result.folder),
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
        lambda console: console.print(f"{result.folder}: {result.images} images, {sized(result.bytes)}{there}"),
    )


def merge(
    parts: Annotated[list[Path], typer.Argument(metavar="PARTS...", help="Folders of 'cache build --part', or parts.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write the cache to.")],
    as_json: JsonFlag = False,
) -> None:
    """Join all parts of a divided build: the same cache, to the byte, as one build makes. The parts stay."""
    require_existing(*parts)
    require_outputs(folders=[output])

    from detheads.cache.merge import merge_parts

    with steps() as on_progress:
        manifest = merge_parts(parts, output, on_progress)
    total = sum((output / shard.file).stat().st_size for shard in manifest.shards)
    answer = {"cache": str(output), "images": len(manifest.images), "shards": len(manifest.shards), "bytes": total}
    emit(
        answer,
        as_json,
        lambda console: console.print(f"{output}: {len(manifest.images)} images, {sized(total)}"),
    )


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


def read_first(folder: Path, split: str | None, limit: int | None, skip_bad: bool = False) -> "Dataset":
    """A split, or its first images, with remarks on what its reader repaired or left out."""
    data = read_split(folder, split, skip_bad=skip_bad)
    if limit is not None:
        data = replace(data, images=data.images[:limit], objects=data.objects[:limit])
    if data.dropped:
        remark("boxes left out or clipped: " + ", ".join(f"{count} {why}" for why, count in data.dropped.items()))
    return data
