"""``detheads deploy serve``: bundles over HTTP."""

import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from detheads.cli.checks import possible_threads
from detheads.cli.options import BackendOption, KeepMostOption, KeepOption, MonitorFlag
from detheads.cli.output import remark
from detheads.foundation.errors import UserError
from detheads.foundation.images import FORMATS
from detheads.foundation.reading import read_text

TOKEN_VARIABLE = "DETHEADS_TOKEN"
LONGEST_TOKEN = 4096
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a model may be called: it stands in paths of requests."""


def serve(
    bundles: Annotated[
        list[str], typer.Argument(metavar="BUNDLE...", help="Folders NAME.detheads, or NAME=FOLDER to name one.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any free one.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Server processes behind the port.")] = 1,
    backend: BackendOption = "cpu",
    threads: Annotated[
        int | None,
        typer.Option(min=1, callback=possible_threads, help="CPU threads of a run; the library's choice if unset."),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="Pictures of several requests in one run.",
            show_default="8 where that is faster, or 1",
        ),
    ] = None,
    max_wait_ms: Annotated[
        float, typer.Option(min=0, max=10_000, help="How long a picture waits at most for others to run with it.")
    ] = 2.0,
    queue: Annotated[
        int, typer.Option(min=1, max=100_000, help="Requests accepted and not yet answered; more get 429.")
    ] = 128,
    max_megabytes: Annotated[float, typer.Option(min=0.001, max=4096, help="Size of a request.")] = 16,
    max_megapixels: Annotated[float, typer.Option(min=0.001, max=200, help="Size of a picture.")] = 50,
    types: Annotated[
        str | None, typer.Option(help="Types of pictures that are decoded, such as jpeg,png.", show_default="all")
    ] = None,
    upload_seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Time for a request to arrive.")] = 15,
    drain_seconds: Annotated[
        float, typer.Option(min=1, max=3600, help="Time to answer what is accepted at the end.")
    ] = 30,
    notice_seconds: Annotated[
        float, typer.Option(min=0, max=600, help="At the end: not ready so long before the port is closed.")
    ] = 1,
    decoders: Annotated[
        int | None, typer.Option(min=1, max=256, help="Threads that decode pictures.", show_default="one a core")
    ] = None,
    watch_seconds: Annotated[
        float, typer.Option(min=0, max=86_400, help="How often to look for replaced bundles; 0: on SIGHUP only.")
    ] = 2,
    token_file: Annotated[
        Path | None, typer.Option(help=f"File with the token that clients must send; or set {TOKEN_VARIABLE}.")
    ] = None,
    access_log: Annotated[bool, typer.Option("--access-log", help="A JSON line on standard output a request.")] = False,
    monitor: MonitorFlag = False,
    keep_uncertain: KeepOption = None,
    keep_most: KeepMostOption = 100,
) -> None:
    """Answer pictures with detections over HTTP, until SIGTERM or Ctrl+C.

    Exit code 0 when every accepted request was answered, else 1.
    """
    from detheads.deploy.monitor.observer import Observing
    from detheads.deploy.serving.server import address_of, listen, run_server
    from detheads.deploy.serving.settings import Settings, one_a_core
    from detheads.deploy.serving.workers import run_workers

    named = name_bundles(bundles)
    if keep_uncertain is not None and workers > 1:
        raise UserError("--keep ranks the pictures of one process; leave --workers out.")
    settings = Settings(
        backend=backend,
        threads=threads,
        max_batch=max_batch or Settings.max_batch,
        gather=max_batch is not None,
        max_wait_ms=max_wait_ms,
        queue=queue,
        max_bytes=round(max_megabytes * 1_000_000),
        max_pixels=round(max_megapixels * 1_000_000),
        types=parse_types(types),
        upload_seconds=upload_seconds,
        drain_seconds=drain_seconds,
        notice_seconds=min(notice_seconds, drain_seconds),
        watch_seconds=watch_seconds,
        token=read_token(token_file),
        access_log=access_log,
        observing=Observing(monitor, keep_uncertain, keep_most),
        decoders=decoders or one_a_core(),
    )
    listener = listen(host, port)
    if settings.token is None and not ip_address(listener.getsockname()[0]).is_loopback:
        remark(f"anybody who reaches {host} may use this server: give --token-file, or leave --host out")

    def ready(told: list[str]) -> None:
        remark(*told, f"serving at {address_of(listener)}")

    with listener:
        code = (
            run_server(named, settings, listener, ready)
            if workers == 1
            else run_workers(workers, named, settings, listener, ready)
        )
    raise typer.Exit(code)


def name_bundles(given: list[str]) -> dict[str, Path]:
    """The folder of each model by its name: ``NAME=FOLDER``, or the folder's own name without its ending.

    Raises:
        UserError: when a name cannot stand in a path of a request, or two are called the same.
    """
    named: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        path = Path(folder) if equals else Path(text)
        name = name if equals else path.absolute().name.removesuffix(".detheads")
        if not _NAME.fullmatch(name):
            raise UserError(
                f"a model cannot be called {name!r}, since clients name it in paths; give NAME={path} with letters, "
                "digits, dots, dashes and underscores."
            )
        if name in named:
            raise UserError(f"{named[name]} and {path} would both be called {name}; give NAME={path} for one of them.")
        named[name] = path
    return named


def parse_types(text: str | None) -> tuple[str, ...]:
    """``"jpeg,png"`` -> ``("JPEG", "PNG")``; all when None."""
    if text is None:
        return FORMATS
    types = tuple(part.strip().upper() for part in text.split(","))
    unknown = [name for name in types if name not in FORMATS]
    if unknown:
        raise UserError(f"--types has {unknown[0]!r}; what can be decoded is {', '.join(FORMATS)}.")
    return types


def read_token(path: Path | None) -> str | None:
    """The token of a file, else of the environment; None when neither is given.

    Raises:
        UserError: when it is empty, or has characters that a header cannot carry.
    """
    token = os.environ.get(TOKEN_VARIABLE) if path is None else read_text(path, LONGEST_TOKEN).strip()
    if token is None:
        return None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"{path or TOKEN_VARIABLE} holds no token; write one line of letters, digits and signs without spaces."
        )
    return token
