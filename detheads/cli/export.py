"""``detheads export`` and ``detheads verify``: bundles and their proof."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from detheads.cli.checks import possible_threads, require_existing, require_run
from detheads.cli.options import HeadFiles, WeightsOption
from detheads.cli.output import JsonFlag, emit, remark, steps
from detheads.foundation.errors import UserError

if TYPE_CHECKING:
    from detheads.export.report import VerificationReport
    from detheads.export.source import Which

WhichOption = Annotated[str, typer.Option(help="Checkpoint of the run: best or last.")]
SplitOption = Annotated[str | None, typer.Option(help="Split to verify on; the validation split when left out.")]
DropOption = Annotated[
    float,
    typer.Option(min=0, max=1, help="Largest allowed |mAP difference|, in AP units 0..1 (0.001 is 0.1 points)."),
]
MatchedOption = Annotated[
    float, typer.Option(min=0, max=1, help="Smallest allowed share of detections found by both sides.")
]
BatchSizesOption = Annotated[str, typer.Option(help="Batch sizes to verify, such as 1,2,5; 1 is always among them.")]
DeviceOption = Annotated[str, typer.Option(help="Torch device of the PyTorch side: cpu, cuda, ...")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, callback=possible_threads, help="CPU threads of ONNX Runtime.")
]


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Bundle to make: NAME.detheads.")],
    data: Annotated[Path | None, typer.Option(help="Dataset folder to prove the bundle on.")] = None,
    split: SplitOption = None,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="No proof; the bundle says that it is unverified.")
    ] = False,
    tensorrt: Annotated[bool, typer.Option("--tensorrt/--onnx-only", help="Build a TensorRT engine too.")] = True,
    batch: Annotated[str, typer.Option(help="Batch sizes of the engine: MIN:BEST:MAX.")] = "1:4:8",
    which: WhichOption = "best",
    head_file: HeadFiles = None,
    weights: WeightsOption = None,
    max_map_drop: DropOption = 0.001,
    min_matched: MatchedOption = 0.99,
    batch_sizes: BatchSizesOption = "1,2,5",
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Ship backbone and head as one graph, from raw pixels to final boxes, with the proof that it equals the original.

    A bundle appears only when its proof holds; otherwise its report is kept in NAME.rejected and the exit code is 1.
    """
    if (data is None) != no_verify:
        raise UserError(
            "give --data DATASET to prove the bundle on, or --no-verify for a bundle without proof (not both)."
        )
    require_run(run)
    require_existing(data, weights)

    from detheads.export.pipeline import export_run
    from detheads.export.proof import Proof, proof_dataset
    from detheads.export.tensorrt_engine import BatchProfile
    from detheads.ops.devices import pick_device

    profile = BatchProfile.parse(batch)
    pick_device(device)  # refused before the graph is made
    proof = None
    if data is not None:
        proof = Proof(
            proof_dataset(data, split),
            parse_batch_sizes(batch_sizes),
            max_map_drop=max_map_drop,
            min_matched=min_matched,
            device=device,
            threads=threads,
        )
    with steps() as on_progress:
        result = export_run(
            run,
            output,
            proof=proof,
            which=parse_which(which),
            weights=weights,
            tensorrt=tensorrt,
            batch=profile,
            force=force,
            on_progress=on_progress,
        )
    for line in result.remarks:
        remark(line)

    def render(console: Console) -> None:
        parity = result.manifest.onnx.parity
        console.print(
            f"model.onnx: {result.manifest.onnx.bytes / 1e6:.1f} MB, differs from PyTorch by at most "
            f"{parity.dense_boxes:.2g} px ({parity.best_boxes:.2g} px on the best boxes) and "
            f"{parity.dense_scores:.2g} in score on random images"
        )
        for engine in result.manifest.engines:
            console.print(
                f"{engine.file}: {engine.bytes / 1e6:.1f} MB in {engine.build_seconds:.1f} s, {engine.status}"
            )
        if result.report is not None:
            print_verdict(console, result.report)
        if result.bundle is None:
            console.print(f"no bundle was left; the report is {result.report_file}")
        else:
            console.print(f"{result.bundle} ({result.manifest.state}), report {result.report_file or 'report.md'}")

    emit(result.to_dict(), as_json, render)
    if not result.passed:
        raise typer.Exit(1)


def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder NAME.detheads.")],
    run: Annotated[Path, typer.Option(help="The training run it was exported from.")],
    data: Annotated[Path, typer.Option(help="Dataset folder to prove the bundle on.")],
    split: SplitOption = None,
    which: WhichOption = "best",
    head_file: HeadFiles = None,
    weights: WeightsOption = None,
    max_map_drop: DropOption = 0.001,
    min_matched: MatchedOption = 0.99,
    batch_sizes: BatchSizesOption = "1,2,5",
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare a bundle with the model it was made from: tensors, boxes and mAP. Exits 1 beyond the tolerance.

    The report is written into the bundle (report.md, report.json, bundle.json), whatever it says.
    """
    require_run(run)
    require_existing(bundle, data, weights)

    from detheads.export.pipeline import verify_bundle
    from detheads.export.proof import Proof, proof_dataset

    proof = Proof(
        proof_dataset(data, split),
        parse_batch_sizes(batch_sizes),
        max_map_drop=max_map_drop,
        min_matched=min_matched,
        device=device,
        threads=threads,
    )
    with steps() as on_progress:
        report = verify_bundle(bundle, run, proof, which=parse_which(which), weights=weights, on_progress=on_progress)

    def render(console: Console) -> None:
        print_verdict(console, report)
        console.print(f"report: {bundle / 'report.md'}")

    emit(report.to_dict(), as_json, render)
    if not report.passed:
        raise typer.Exit(1)


def print_verdict(console: Console, report: "VerificationReport") -> None:
    """The three mAP figures and whether they agree."""
    cache = "not recorded" if report.map_cache is None else f"{report.map_cache:.4f}"
    worst = report.worst
    console.print(f"mAP on {report.images} images: cache {cache}, PyTorch {report.live.AP:.4f}, ", end="")
    console.print(f"{worst.file} {worst.statistics.AP:.4f} (drop {worst.map_drop:+.6f})")
    console.print("proof holds" if report.passed else "proof FAILED")
    for reason in report.reasons:
        console.print(f"  {reason}")


def parse_which(text: str) -> "Which":
    """``best`` or ``last``."""
    if text == "best":
        return "best"
    if text == "last":
        return "last"
    raise UserError(f"--which is best or last, not {text!r}.")


def parse_batch_sizes(text: str) -> tuple[int, ...]:
    """``"1,2,5"`` -> ``(1, 2, 5)``."""
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or not all(1 <= size <= 1024 for size in sizes):
        raise UserError(f"--batch-sizes takes numbers from 1 to 1024 such as 1,2,5, not {text!r}.")
    return sizes
