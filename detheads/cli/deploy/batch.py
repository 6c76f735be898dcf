"""``detheads deploy batch``: folders of millions of pictures, in parts, in this process or on Ray."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from detheads.cli.backends import named_backend
from detheads.cli.checks import possible_threads, require_existing
from detheads.cli.options import BackendOption, BundleArgument
from detheads.cli.output import JsonFlag, emit, remark, steps
from detheads.cli.workers import AddressOption, GpusOption, RetriesOption, WorkersOption, workers_of
from detheads.foundation.errors import UserError

if TYPE_CHECKING:
    from detheads.deploy.batch.summary import Summary


def batch(
    bundle: BundleArgument,
    sources: Annotated[list[Path], typer.Argument(help="Folders of pictures, and pictures.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run; started again it goes on.")],
    part_size: Annotated[int, typer.Option(min=1, max=1_000_000, help="Pictures in one part.")] = 1000,
    workers: WorkersOption = 0,
    address: AddressOption = None,
    gpus_per_worker: GpusOption = 0.0,
    retries: RetriesOption = 3,
    score: Annotated[float, typer.Option(min=0, max=1, help="Lowest score of a detection that is written.")] = 0.0,
    size: Annotated[int, typer.Option("--batch", min=1, max=1024, help="Pictures in one run of the graph.")] = 8,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=possible_threads,
            help="CPU threads of a worker.",
            show_default="1; without Ray the library's own choice",
        ),
    ] = None,
    backend: BackendOption = "cpu",
    head: Annotated[
        str | None, typer.Option(help="Only this head, of a bundle of several.", show_default="all heads")
    ] = None,
    coco: Annotated[
        bool, typer.Option("--coco", help="In the end write detections.json and images.json of all parts, too.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run a bundle over any number of pictures: JSON lines in parts, each written exactly once.

    What is killed, worker or run, loses the parts that were being worked on, and no other. A picture that cannot be
    read is listed in the record of its part. Exit code 1 when a part was given up.
    """
    require_existing(bundle, *sources)

    from detheads.deploy.batch.listing import require_sources
    from detheads.deploy.batch.plan import Job, read_lists
    from detheads.deploy.batch.run import run_batch
    from detheads.deploy.batch.summary import NAME, merge_coco
    from detheads.foundation.bundle import onnx_file, read_manifest

    where = workers_of(workers, address, gpus_per_worker, threads, retries)
    if gpus_per_worker and backend == "cpu":
        raise UserError("--backend cpu leaves a GPU idle; take another one, such as cuda, or no --gpus-per-worker.")
    manifest = read_manifest(bundle)
    onnx_file(bundle, manifest)
    if head is not None:
        manifest.head_named(head)
    if manifest.state != "verified":
        remark(f"{bundle} is {manifest.state}: nothing proves that it equals the trained model")
    job = Job(
        output=str(output.absolute()),
        bundle=str(bundle.absolute()),
        graph=manifest.onnx.sha256,
        sources=tuple(map(str, require_sources(sources))),
        part_size=part_size,
        backend=named_backend(bundle, backend, threads),
        head=head,
        score=score,
        batch=size,
        threads=threads or (1 if workers else None),
    )
    with steps() as on_progress:
        summary = run_batch(
            job,
            where,
            on_progress=on_progress,
            on_remark=remark,
        )
    lists = read_lists(output)
    answer: dict[str, Any] = {
        "folder": str(output),
        "summary": str(output / NAME),
        "pictures": summary.pictures,
        "detections": summary.detections,
        "full_tables": summary.full,
        "unreadable": summary.unreadable,
        "parts": summary.parts,
    }
    if summary.failed:
        raise UserError(
            f"{len(summary.failed)} of {lists.parts} parts were given up ({output / NAME} says which); the first: "
            f"{next(iter(summary.failed.values())).rstrip('.')}; the same command begins them again."
        )
    if summary.unreadable:
        remark(f"{summary.unreadable} pictures cannot be read; parts/NUMBER.json lists those of its part")
    if coco:
        answer["results"], answer["images_file"] = map(str, merge_coco(job, lists))
    emit(answer, as_json, lambda console: _print_batch(console, summary, output / NAME))


def _print_batch(console: Console, summary: "Summary", path: Path) -> None:
    console.print(
        f"{path}: {summary.detections} detections on {summary.pictures - summary.unreadable} pictures, in "
        f"{summary.parts} parts"
    )
