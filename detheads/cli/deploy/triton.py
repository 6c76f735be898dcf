"""``detheads deploy triton``: a model repository for Triton, KServe and OpenVINO Model Server."""

from pathlib import Path
from typing import Annotated

import typer

from detheads.cli.options import BundleArgument
from detheads.cli.output import JsonFlag, emit, remark
from detheads.foundation.errors import UserError

PLATFORMS = ("onnxruntime_onnx", "tensorrt_plan")


def triton(
    bundle: BundleArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Model repository; made where it is missing.")],
    platform: Annotated[
        str, typer.Option(help="onnxruntime_onnx, or tensorrt_plan: the bundle's engine of tensorrt.")
    ] = PLATFORMS[0],
    name: Annotated[str | None, typer.Option(help="Name of the model.", show_default="the bundle's")] = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="Number of the version; others stay.", show_default="the next one")
    ] = None,
    version_policy: Annotated[
        str, typer.Option(help="Which are served: latest:N, all, or specific:1,3.", show_default="latest:1")
    ] = "",
    max_batch: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Images in one run.", show_default="8; of an engine, its own"),
    ] = None,
    max_queue_delay_us: Annotated[
        int | None, typer.Option(min=0, help="Microseconds that a request waits for others.", show_default="0")
    ] = None,
    preferred_batch: Annotated[
        list[int] | None, typer.Option(help="A batch size that is run as soon as it is full; repeatable.")
    ] = None,
    instances: Annotated[
        list[str] | None, typer.Option(help="Copies of the model: gpu:2 (on each GPU), cpu:1; repeatable.")
    ] = None,
    warmup: Annotated[
        bool, typer.Option("--warmup", help="Run the smallest and largest batch before the model is ready.")
    ] = False,
    ovms: Annotated[
        bool, typer.Option("--ovms", help="List the model in config.json for OpenVINO Model Server, too.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a bundle into a model repository of NVIDIA Triton: a new model, or one more version of it.

    The graph is that of the profile triton where the bundle has it, else the bundle's own. A model that is there keeps
    its configuration unless an option of it is given.
    """
    from detheads.deploy.hosts.model_server import add_model
    from detheads.deploy.hosts.triton import Wishes, place
    from detheads.foundation.bundle import read_manifest
    from detheads.foundation.errors import suggest

    if platform not in PLATFORMS:
        raise UserError(f"--platform is {' or '.join(PLATFORMS)}, not {platform!r}.{suggest(platform, PLATFORMS)}")
    if ovms and platform != PLATFORMS[0]:
        raise UserError("OpenVINO Model Server runs no TensorRT engines; leave out --ovms or --platform.")
    wishes = Wishes(
        max_batch, max_queue_delay_us, tuple(preferred_batch or ()), tuple(instances or ()), version_policy, warmup
    )
    placed = place(bundle, output, platform=platform, name=name, version=version, wishes=wishes)
    listed = add_model(output, placed.model.name) if ovms else None
    state = read_manifest(bundle).state
    if state != "verified":
        remark(f"{bundle} is {state}: nothing proves that it equals the trained model")
    for sentence in placed.remarks:
        remark(sentence)
    answer = {
        "model": str(placed.model),
        "version": placed.version,
        "file": str(placed.file),
        "covered": placed.covered,
        "remarks": list(placed.remarks),
        "bundle_state": state,
    } | ({"ovms": str(listed)} if listed is not None else {})
    emit(
        answer,
        as_json,
        lambda console: console.print(
            f"{placed.file}: {placed.covered}",
            f"configuration: {placed.model / 'config.pbtxt'}",
            *([f"for OpenVINO Model Server: {listed}"] if listed is not None else []),
            sep="\n",
        ),
    )
