"""``detheads demo``: the whole job on generated scenes, or on the user's own dataset."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from detheads.cli.checks import require_existing, require_outputs
from detheads.cli.output import JsonFlag, emit, remark, steps, table


def demo(
    data: Annotated[
        Path | None, typer.Option(help="Your dataset folder with a training and a validation split.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for everything it makes.")] = Path(
        "detheads-demo"
    ),
    size: Annotated[int | None, typer.Option(help="Input side in pixels: 320 for the scenes, else 512.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Training epochs.")] = 12,
    as_json: JsonFlag = False,
) -> None:
    """Dataset to verified bundle in one command: cache, train, evaluate, export, prove, draw. Offline."""
    require_existing(data)
    require_outputs(folders=[output])

    from detheads.demo import run_demo

    remark(f"everything goes to {output}; run again to continue an interrupted demo")
    with steps() as on_progress:
        result = run_demo(output, data=data, size=size, epochs=epochs, on_progress=on_progress)

    def render(console: Console) -> None:
        rows = [
            ("mAP on cached features", f"{result.map:.4f}"),
            ("mAP of live PyTorch", f"{result.live_map:.4f}"),
            ("mAP of model.onnx", f"{result.onnx_map:.4f}"),
            ("difference live - ONNX", f"{result.map_drop:+.5f}"),
            ("head parameters", f"{result.parameters:,}"),
            ("TensorRT engine", result.engine_status),
            ("seconds", f"{result.seconds:.0f} ({', '.join(f'{k} {v:.0f}' for k, v in result.steps.items())})"),
        ]
        console.print(table(("result", ""), rows))
        for name in ("bundle", "engine", "picture", "report", "page"):
            console.print(f"{name:8} {getattr(result, name)}")

    emit(asdict(result), as_json, render)
