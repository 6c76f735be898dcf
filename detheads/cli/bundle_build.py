"""``detheads bundle build``: the TensorRT engine of a bundle, from the bundle alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from detheads.cli.output import JsonFlag, emit, remark, steps

if TYPE_CHECKING:
    from detheads.deploy.engines.bundled import BuildResult


def build(
    bundle: Annotated[Path, typer.Argument(help="Folder NAME.detheads.")],
    library: Annotated[
        str | None,
        typer.Option(help="tensorrt or tensorrt_rtx.", show_default="the first that can build here"),
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes of the engine: MIN:BEST:MAX.")] = "1:4:8",
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(metavar="SM", help="GPU architecture, such as SM86; repeatable. Ampere and newer when left out."),
    ] = None,
    workspace_gb: Annotated[
        float | None,
        typer.Option(min=0.001, max=1000, help="Most GPU memory for intermediate results, in GB of 10^9 bytes."),
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="File with timings of earlier builds, made if missing (tensorrt only).")
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Later releases run it, too (tensorrt only).")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="All GPUs from Ampere on run it (tensorrt only).")
    ] = False,
    strip_weights: Annotated[
        bool, typer.Option("--strip-weights", help="Leave the weights out: taken from model.onnx when loaded.")
    ] = False,
    refittable: Annotated[
        bool, typer.Option("--refittable", help="Its weights can be replaced by others later.")
    ] = False,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="FP32 products may be computed in TF32: faster, less exact.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Build anew even where the bundle has such an engine that fits.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Build the TensorRT engine of a bundle on this machine, from the bundle alone.

    It replaces the library's earlier engine when that was built for another version, GPU, graph or other options.
    Whatever stops the build leaves the bundle as it was.
    """
    from detheads.deploy.engines.bundled import build_into
    from detheads.deploy.engines.library import find_library
    from detheads.deploy.engines.options import BatchProfile, EngineOptions

    options = EngineOptions(
        BatchProfile.parse(batch),
        tuple(compute_capability) if compute_capability else None,
        workspace_gb,
        timing_cache,
        version_compatible,
        hardware_compatible,
        strip_weights,
        refittable,
        tf32,
    )
    with steps() as on_progress:
        result = build_into(bundle, options, library=find_library(library), force=force, on_progress=on_progress)
    if result.remark:
        remark(result.remark)
    emit(
        {"bundle": str(bundle), "built": result.built, "reason": result.reason} | result.entry.model_dump(mode="json"),
        as_json,
        lambda console: _print_build(console, bundle, result),
    )


def _print_build(console: Console, bundle: Path, result: "BuildResult") -> None:
    from detheads.foundation.atomic import sized
    from detheads.foundation.gpus import served

    entry = result.entry
    if not result.built:
        console.print(f"{bundle / entry.file} fits and is kept; --force builds it anew")
    elif result.reason:
        console.print(f"the earlier engine was replaced: {result.reason}")
    types = ", ".join(f"{count} in {kind}" for kind, count in entry.products.items())
    batch = ":".join(map(str, entry.batch))
    console.print(f"{bundle / entry.file}: {sized(entry.bytes)}, {entry.builder}, batch {batch}, {entry.status}")
    console.print(f"built in {entry.build_seconds:.1f} s for {served(entry.compute_capabilities)}")
    console.print(f"convolutions and matrix products: {types or 'none'}")
