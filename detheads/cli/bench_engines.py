"""``detheads bench engines``: what engines cost to build in each precision."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.console import Console

from detheads.cli.options import BackboneOption, RandomWeightsOption, SizeOption, WeightsOption, parse_size
from detheads.cli.output import JsonFlag, emit, steps, table
from detheads.foundation.errors import UserError, suggest

if TYPE_CHECKING:
    from detheads.bench.engines import EngineBench


INDICES = frozenset({"INT32", "INT64", "BOOL"})
"""Types of indices and shapes, which no precision changes."""


def engines(
    backbone: BackboneOption = "effnet_lite0",
    size: SizeOption = None,
    weights: WeightsOption = None,
    random_weights: RandomWeightsOption = False,
    head: Annotated[str, typer.Option(help="A name of 'detheads heads list'; its weights are random.")] = "split_tower",
    precision: Annotated[
        list[str] | None, typer.Option(help="fp32, fp16, bf16, int8 or mixed; repeatable.", show_default="fp32")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help="Pictures for every precision but fp32: a folder, or DATASET:SPLIT.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Calibration pictures.")] = 8,
    library: Annotated[
        str | None, typer.Option(help="tensorrt or tensorrt_rtx.", show_default="the first that can build here")
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes of the engines: MIN:BEST:MAX.")] = "1:4:8",
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(metavar="SM", help="GPU architecture, such as SM86; repeatable. Ampere and newer when left out."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Build the engines of a backbone with a head: seconds, sizes and types by precision. They are not executed."""
    from detheads.foundation.manifest import Precision

    known = get_args(Precision)
    for name in precision or ():
        if name not in known:
            raise UserError(f"--precision is one of {', '.join(known)}, not {name!r}.{suggest(name, known)}")
    chosen = [name for name in known if name in (precision or ["fp32"])]

    from detheads.deploy.engines.library import find_library
    from detheads.deploy.engines.options import BatchProfile, EngineOptions

    found = find_library(library)
    options = EngineOptions(BatchProfile.parse(batch), tuple(compute_capability) if compute_capability else None)
    options.require_possible(found)

    from detheads.backbones.backbone import load_backbone
    from detheads.bench.engines import bench_engines
    from detheads.export.precision.calibration import choose_calibration

    encoder = load_backbone(backbone, parse_size(size), weights=weights, random_weights=random_weights)
    spec = encoder.feature_spec
    pictures = None
    if calibration is not None:
        pictures = choose_calibration(calibration, (spec.height, spec.width), count=images)
    with steps() as on_progress:
        result = bench_engines(encoder, head, chosen, options, found, pictures, on_progress)
    emit(asdict(result), as_json, lambda console: _print(console, result))


def _print(console: Console, result: "EngineBench") -> None:
    from detheads.foundation.atomic import sized

    batch, gpus = ":".join(map(str, result.batch)), ", ".join(result.compute_capabilities)
    height, width = result.size
    console.print(
        f"{result.backbone} + {result.head}, {height} x {width} pixels, {result.builder}, batch {batch}, for {gpus}; "
        f"built, not executed; traced in {result.trace_seconds:.0f} s"
    )
    rows = [
        (
            row.precision,
            sized(row.onnx_bytes),
            sized(row.engine_bytes),
            f"{row.convert_seconds:.1f}",
            f"{row.build_seconds:.1f}",
            _shares(row.products),
            _shares({kind: count for kind, count in row.layer_types.items() if kind not in INDICES}),
            f"{row.peak_memory_mb / 1000:.1f}",
        )
        for row in result.rows
    ]
    columns = (
        "precision",
        "ONNX",
        "engine",
        "convert s",
        "build s",
        "products in",
        "outputs in",
        "peak GB",
    )
    console.print(table(columns, rows))


def _shares(counts: dict[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{kind} {count / total:.0%}" for kind, count in counts.items())
