"""``detheads export`` and ``detheads verify``: bundles and their proof."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from detheads.cli.bundle_sign import check_integrity
from detheads.cli.checks import one_for_each, possible_threads, require_existing, require_run
from detheads.cli.options import (
    BackboneFile,
    ClassesOption,
    EmbeddingsOption,
    HeadFiles,
    SkipBad,
    WeightsOption,
    parse_classes,
)
from detheads.cli.output import JsonFlag, emit, remark, steps
from detheads.cli.precision_options import (
    CalibrationOption,
    FallbackOption,
    PrecisionOption,
    RangeImagesOption,
    RangeMethodOption,
    parse_conversion,
)
from detheads.cli.profiles import ProfileOption, RawOption, wanted_profiles
from detheads.cli.verdict import print_verdict, remark_skipped
from detheads.foundation.errors import UserError

if TYPE_CHECKING:
    from detheads.export.source import Which

WhichOption = Annotated[str, typer.Option(help="Checkpoint of the run: best or last.")]
SplitOption = Annotated[str | None, typer.Option(help="Split to verify on; the validation split when left out.")]
DropOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Largest allowed |mAP difference|, in AP units 0..1; when left out fp32 0.001, fp16 and bf16 0.003, int8 "
        "and mixed 0.005. Other limits are multiples of it.",
    ),
]
LimitOption = Annotated[
    list[str] | None,
    typer.Option(
        "--limit", metavar="NAME=VALUE", help="Limit of AP50, AP75, small, medium, large or class (the worst one)."
    ),
]
MatchedOption = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Smallest allowed share of detections found by both sides; by precision."),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Fail where the images are not enough to prove it.")]
PicturesOption = Annotated[int, typer.Option(min=0, max=50, help="Pictures in report.html, those that differ most.")]
BatchSizesOption = Annotated[str, typer.Option(help="Batch sizes to verify, such as 1,2,5; 1 is always among them.")]
DeviceOption = Annotated[str, typer.Option(help="Torch device of the PyTorch side: cpu, cuda, ...")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, callback=possible_threads, help="CPU threads of ONNX Runtime.")
]


def export(
    run: Annotated[list[Path], typer.Argument(help="Folder of a training run; several share one backbone.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Bundle to make: NAME.detheads.")],
    data: Annotated[
        list[Path] | None, typer.Option(help="Dataset folder to prove the bundle on; of several runs one each.")
    ] = None,
    head_name: Annotated[
        list[str] | None, typer.Option(help="Of several runs, each head's name.", show_default="its run's folder")
    ] = None,
    split: SplitOption = None,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="No proof; the bundle says that it is unverified.")
    ] = False,
    tensorrt: Annotated[bool, typer.Option("--tensorrt/--onnx-only", help="Build a TensorRT engine too.")] = True,
    batch: Annotated[str, typer.Option(help="Batch sizes of the engine: MIN:BEST:MAX.")] = "1:4:8",
    score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Detections score more than this; 0.05 when left out.")
    ] = None,
    iou: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="IoU of suppression; 0.5, or none for heads without it, when left out."),
    ] = None,
    max_detections: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Detections of an image at most; 100 when left out.")
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option(min=1, max=3840, help="Best (box, class) pairs that take part; 1000 when left out."),
    ] = None,
    profile: ProfileOption = None,
    raw: RawOption = False,
    probes: Annotated[
        int, typer.Option(min=0, max=64, help="Pictures in the bundle by which a device can check itself.")
    ] = 4,
    own_probes: Annotated[
        bool, typer.Option("--own-probes", help="Take them from --data; its licence must permit passing them on.")
    ] = False,
    precision: PrecisionOption = "fp32",
    calibration: CalibrationOption = None,
    range_images: RangeImagesOption = 64,
    range_method: RangeMethodOption = "minmax",
    no_fallback: FallbackOption = False,
    which: WhichOption = "best",
    classes: ClassesOption = None,
    text: EmbeddingsOption = None,
    head_file: HeadFiles = None,
    backbone_file: BackboneFile = None,
    weights: WeightsOption = None,
    max_map_drop: DropOption = None,
    limit: LimitOption = None,
    min_matched: MatchedOption = None,
    strict: StrictOption = False,
    pictures: PicturesOption = 4,
    batch_sizes: BatchSizesOption = "1,2,5",
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    skip_bad: SkipBad = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Ship backbone and head as one graph, from raw pixels to final boxes, with the proof that it equals the original.

    A bundle appears only when its proof holds; otherwise its report is kept in NAME.rejected and the exit code is 1.
    --classes and --text give the head other classes than it was trained on, without training.
    """
    if (not data) != no_verify:
        raise UserError(
            "give --data DATASET to prove the bundle on, or --no-verify for a bundle without proof (not both)."
        )
    for folder in run:
        require_run(folder)
    require_existing(*(data or ()), weights, text)
    names = parse_classes(classes)

    from detheads.export.limits import parse_limits
    from detheads.export.target import require_target
    from detheads.foundation.summary import machines

    limits = parse_limits(limit or ())

    require_target(output, force)  # before the imports that take seconds
    profiles = wanted_profiles(profile, raw)
    sizes, chosen = parse_batch_sizes(batch_sizes), parse_which(which)

    from detheads.backbones.text import read_embeddings
    from detheads.deploy.engines.options import BatchProfile, EngineOptions
    from detheads.export.device_probes import ProbeChoice
    from detheads.export.names import named_runs
    from detheads.export.pipeline import Suppression, export_runs
    from detheads.export.proof import Proof, proof_dataset
    from detheads.ops.devices import pick_device
    from detheads.training.vocabulary import Vocabulary

    engine = EngineOptions(BatchProfile.parse(batch))
    conversion = parse_conversion(
        precision, calibration, range_images, range_method, no_fallback, data[0] if data else None
    )
    pick_device(device)  # refused before the graph is made
    embeddings = read_embeddings(text) if text is not None else None
    vocabulary = Vocabulary(names, embeddings) if names or embeddings is not None else None
    runs = named_runs(run, head_name or ())
    proofs = None
    if data:
        proofs = {
            name: Proof(
                proof_dataset(folder, split, skip_bad=skip_bad),
                sizes,
                max_map_drop=max_map_drop,
                min_matched=min_matched,
                limits=limits,
                strict=strict,
                pictures=pictures,
                device=device,
                threads=threads,
                skip_bad=skip_bad,
            )
            for name, folder in zip(runs, one_for_each(data, run), strict=True)
        }
    with steps() as on_progress:
        result = export_runs(
            runs,
            output,
            proofs=proofs,
            which=chosen,
            weights=weights,
            vocabulary=vocabulary,
            tensorrt=tensorrt,
            engine=engine,
            suppression=Suppression(score, iou, max_detections, candidates),
            profiles=profiles,
            probes=ProbeChoice(probes, own_probes),
            conversion=conversion,
            force=force,
            on_progress=on_progress,
        )
    for line in dict.fromkeys([*result.remarks, *(line for one in result.reports.values() for line in one.remarks)]):
        remark(line)
    for report in result.reports.values():
        remark_skipped(report)

    def render(console: Console) -> None:
        for head in result.manifest.heads:
            title = f"{head.name}: " if len(run) > 1 else ""
            console.print(
                f"{title}self-check: model.onnx differs from PyTorch by at most {head.parity.dense_boxes:.2g} px "
                f"({head.parity.best_boxes:.2g} px on the best boxes) and {head.parity.dense_scores:.2g} in score on "
                "random images"
            )
        for title, text in machines(result.manifest):
            console.print(f"{title}: {text}")
        for report in result.reports.values():
            print_verdict(console, report)
        if result.bundle is None:
            console.print(f"no bundle was left; the report is {result.report_file}")
        else:
            console.print(f"{result.bundle} ({result.manifest.state}), report {result.report_file or 'report.md'}")

    emit(result.to_dict(), as_json, render)
    if not result.passed:
        raise typer.Exit(1)


def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder NAME.detheads.")],
    run: Annotated[
        list[Path] | None, typer.Option(help="The training run it was exported from; of several heads, each.")
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Dataset folder to prove the bundle on; of several runs one each.")
    ] = None,
    integrity: Annotated[
        bool, typer.Option("--integrity", help="Compare files with their digests alone; needs no run and no data.")
    ] = False,
    public_key: Annotated[
        Path | None, typer.Option(help="With --integrity: whose signature it must have, Ed25519 in PEM.")
    ] = None,
    split: SplitOption = None,
    which: WhichOption = "best",
    text: EmbeddingsOption = None,
    head_file: HeadFiles = None,
    backbone_file: BackboneFile = None,
    weights: WeightsOption = None,
    max_map_drop: DropOption = None,
    limit: LimitOption = None,
    min_matched: MatchedOption = None,
    strict: StrictOption = False,
    pictures: PicturesOption = 4,
    batch_sizes: BatchSizesOption = "1,2,5",
    explain: Annotated[
        bool, typer.Option("--explain", help="Look for the first tensor that departs although the proof holds.")
    ] = False,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="Run the bundle there too; engines that run here when left out. Repeatable."),
    ] = None,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    skip_bad: SkipBad = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare a bundle with the model it was made from: tensors, boxes and mAP. Exits 1 beyond the tolerance.

    The report is written into the bundle (report.html, report.md, report.json, bundle.json), whatever it says; where
    the bundle cannot be written, the verdict is shown only.
    """
    from detheads.export.limits import parse_limits
    from detheads.foundation.bundle import read_manifest

    if integrity:
        check_integrity(bundle, public_key, as_json)
        return
    if not run or not data or public_key is not None:
        raise UserError("give --run RUN and --data DATASET to prove a bundle, or --integrity (with --public-key KEY).")
    for folder in run:
        require_run(folder)
    require_existing(*data, weights, text)
    read_manifest(bundle)  # before the imports that take seconds
    limits = parse_limits(limit or ())
    sizes, chosen = parse_batch_sizes(batch_sizes), parse_which(which)

    from detheads.backbones.text import read_embeddings
    from detheads.export.pipeline import store_verdict, verify_bundle
    from detheads.export.proof import Proof, proof_dataset

    embeddings = read_embeddings(text) if text is not None else None
    reports = []
    for folder, source in zip(run, one_for_each(data, run), strict=True):
        proof = Proof(
            proof_dataset(source, split, skip_bad=skip_bad),
            sizes,
            max_map_drop=max_map_drop,
            min_matched=min_matched,
            limits=limits,
            strict=strict,
            pictures=pictures,
            explain=explain,
            backends=backend,
            device=device,
            threads=threads,
            skip_bad=skip_bad,
        )
        with steps() as on_progress:
            report = verify_bundle(
                bundle,
                folder,
                proof,
                which=chosen,
                weights=weights,
                embeddings=embeddings,
                store=False,
                on_progress=on_progress,
            )
        for line in report.remarks:
            remark(line)
        remark_skipped(report)
        reports.append(report)
    answers = [report.to_dict() for report in reports]
    answer = answers[0] if len(run) == 1 else {"passed": all(one.passed for one in reports), "heads": answers}

    def render(console: Console) -> None:
        for report in reports:
            print_verdict(console, report)

    emit(answer, as_json, render)
    for report in reports:  # after they were shown: nothing that fails now loses them
        refusal = store_verdict(bundle, report)
        remark(refusal or f"report: {bundle / ('report.html' if len(reports) == 1 else 'report.md')}")
    if not all(report.passed for report in reports):
        raise typer.Exit(1)


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
