"""``detheads deploy frigate`` and ``frigate-worker``: a bundle behind Frigate's cameras."""

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from detheads.cli.backends import named_backend
from detheads.cli.checks import possible_threads
from detheads.cli.options import BackendOption, BundleArgument
from detheads.cli.output import JsonFlag, emit, remark

if TYPE_CHECKING:
    from detheads.deploy.hosts.frigate_worker import Tally

HeadOption = Annotated[str | None, typer.Option(help="Only this head, of a bundle of several.", show_default="all")]


def frigate(
    bundle: BundleArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="New folder for Frigate's /config/detheads.")],
    worker: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Let a frigate-worker run the bundle, at tcp://HOST:PORT."),
    ] = None,
    head: HeadOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Write what Frigate reads: graph, label map and configuration.

    The graph is the one that export --profile frigate made and proved.

    With --worker none is needed: Frigate sends its frames to a 'deploy frigate-worker', which has the same --head.
    """
    from detheads.deploy.hosts.frigate import CONFIGURATION, FOLDER, write_folder
    from detheads.foundation.errors import UserError

    if head is not None and worker is None:
        raise UserError("--head is for --worker; the graph of a profile has one head.")
    files, profile = write_folder(bundle, output, worker=worker, head=head)
    if profile is not None and (profile.proof is None or not profile.proof.passed):
        remark(f"the graph for Frigate in {bundle} is unverified: nothing proves that it equals the trained model")

    def render(console: Console) -> None:
        console.print(f"{output}: {', '.join(files)}")
        console.print(f"mount it at {FOLDER}, and put {CONFIGURATION} into Frigate's configuration")

    emit({"folder": str(output), "files": files, "worker": worker}, as_json, render)


def frigate_worker(
    bundle: BundleArgument,
    bind: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Where to listen: tcp://0.0.0.0:5555 for all networks, or ipc://FILE."),
    ] = "tcp://127.0.0.1:5555",
    backend: BackendOption = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, callback=possible_threads, help="CPU threads; the library's choice if unset.")
    ] = None,
    head: HeadOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Detect for a Frigate on another machine, until SIGTERM or Ctrl+C.

    The protocol knows no password: listen only where you trust whoever can connect.
    """
    import zmq  # noqa: F401 - told as missing before the bundle is opened

    from detheads.deploy.detector import Detector
    from detheads.deploy.hosts.frigate_worker import Worker, serve

    detector = Detector(bundle, backend=named_backend(bundle, backend, threads), threads=threads, head=head)
    if detector.manifest.state != "verified":
        remark(f"{bundle} is {detector.manifest.state}: nothing proves that it equals the trained model")
    worker = Worker(detector, remark)
    seconds = worker.warm_up()
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        tally = serve(
            worker, bind, stop, lambda: remark(f"{detector!r} listens at {bind}, {1000 * seconds:.1f} ms a frame")
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    emit(tally.to_dict(), as_json, lambda console: _print_tally(console, tally))


def _print_tally(console: Console, tally: "Tally") -> None:
    median = "" if tally.median_ms is None else f", {tally.median_ms:.1f} ms each (median)"
    console.print(f"{tally.frames} frames answered{median}")
    console.print(f"{tally.refused} requests refused, {tally.late} replies later than Frigate waits")
