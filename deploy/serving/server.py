"""The server as a process: its port, its signals, and its end."""

import asyncio
import errno
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from detheads.deploy.serving.app import create_app
from detheads.deploy.serving.connection import bounded
from detheads.deploy.serving.models import Models
from detheads.deploy.serving.settings import Settings
from detheads.foundation.errors import UserError

BACKLOG = 1024
"""Connections that the system holds until they are accepted."""
KEEP_ALIVE = 75
"""Seconds that a connection may be silent between two requests: longer than proxies and cameras leave it."""

log = logging.getLogger("detheads.serving")


class Server(uvicorn.Server):
    """uvicorn with an end that loses nothing: not ready first, then no new connections, then the last answer.

    Args:
        on_ready: called when requests are answered.
    """

    def __init__(self, models: Models, settings: Settings, on_ready: Callable[[], None]) -> None:
        self._models, self._settings, self._on_ready = models, settings, on_ready
        self._interrupts = 0
        super().__init__(
            uvicorn.Config(
                create_app(models, settings),
                http=bounded(settings.upload_seconds),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=max(1, round(settings.drain_seconds - settings.notice_seconds)),
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own closes the port at once, and ends with the signal instead of an exit code."""
        if threading.current_thread() is not threading.main_thread():  # within another program, which has the signals
            yield
            return
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGTERM: self.drain, signal.SIGINT: self._interrupted, signal.SIGHUP: self._models.look.set}

        def wake(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(handlers[signal.Signals(number)])

        for number in handlers:
            signal.signal(number, wake)
        try:
            yield
        finally:
            # The process has only to end now. A second signal, such as systemd's to a whole group, must not kill it and
            # so turn its exit code. (The loop's own handlers would leave such a moment when they are removed.)
            for number in handlers:
                signal.signal(number, signal.SIG_IGN)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    def drain(self) -> None:
        """Say that this server is not ready, answer what still comes for a moment, and end."""
        traffic = self._models.traffic
        if not traffic.draining:
            traffic.draining = True
            log.info("asked to end: %d requests in progress", traffic.in_progress)
            asyncio.get_running_loop().call_later(self._settings.notice_seconds, self._stop)

    def _stop(self) -> None:
        self.should_exit = True

    def _interrupted(self) -> None:
        """Ctrl+C ends as SIGTERM does; once more, at once."""
        self._interrupts += 1
        if self._interrupts > 1:
            self.should_exit = self.force_exit = True
        self.drain()


def listen(host: str, port: int) -> socket.socket:
    """The port, taken but not yet open: connections are refused until the bundles are.

    Raises:
        UserError: when it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{host} is not an address of this machine ({reason}); give another --host.") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _not_had(host, port, error) from None
    return listener


def open_port(listener: socket.socket) -> None:
    """Let connections in.

    Raises:
        UserError: when another program was faster.
    """
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise _not_had(host, port, error) from None


def address_of(listener: socket.socket) -> str:
    """``http://127.0.0.1:8000``."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(
    bundles: dict[str, Path],
    settings: Settings,
    listener: socket.socket,
    on_ready: Callable[[list[str]], None],
    backends: Mapping[str, str] | None = None,
) -> int:
    """Open the bundles and answer until a signal asks for the end.

    Args:
        on_ready: called with a sentence for each model, when requests are answered.
        backends: what runs each model, where that is known (see :class:`Models`).

    Returns:
        0 when every accepted request was answered, else 1.

    Raises:
        UserError: when a bundle cannot be opened or run.
    """
    begin_log()
    models = Models(bundles, settings, backends)
    open_port(listener)
    server = Server(models, settings, lambda: on_ready(told_of(models)))
    server.run([listener])
    traffic = models.traffic
    log.info(
        "ended: %d requests accepted, %d answered, %d clients gone", traffic.accepted, traffic.answered, traffic.gone
    )
    return int(traffic.lost > 0)


def told_of(models: Models) -> list[str]:
    """A line for each model: its name, whether it was proven, what runs it, and how."""
    told = []
    for served in models:
        detector = served.detector
        runs = f"up to {served.together} pictures a run" if served.together > 1 else "one picture a run"
        told.append(f"{served.name}: {detector.manifest.state}, {detector.choice or detector.session.runtime}; {runs}")
    return told


def begin_log() -> None:
    """Lines of the server on standard error, with the time and the process."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(process)d %(levelname)s %(message)s",
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def _not_had(host: str, port: int, error: OSError) -> UserError:
    if error.errno == errno.EADDRINUSE:
        return UserError(f"port {port} of {host} is in use by another program; give another --port, or end that one.")
    if error.errno == errno.EACCES:
        return UserError(f"port {port} is for the system's own services; give a --port from 1024 on.")
    return UserError(f"port {port} of {host} cannot be opened ({error.strerror}); give another --host or --port.")
