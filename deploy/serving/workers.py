"""Several server processes behind one port. The parent opens the port, starts them, and passes signals on.

SIGTERM and SIGINT end them as one server ends, SIGHUP has each look at its bundles. A worker that dies is replaced; one
that does not become ready at the start ends all, since the next would not, either. Workers end when their parent is
killed.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from types import FrameType

from prometheus_client.multiprocess import mark_process_dead

from detheads.deploy.serving.metrics import FOLDER
from detheads.deploy.serving.models import Models
from detheads.deploy.serving.server import begin_log, run_server, told_of
from detheads.deploy.serving.settings import Settings
from detheads.foundation.errors import UserError

GRACE = 5.0
"""Seconds after the drain that a worker gets to end by itself."""
LOOK = 0.2
"""Seconds between two looks at the workers."""
RETRY = 10.0
"""Seconds from the start of a worker that could not open its bundles to the start of another one in its place."""

log = logging.getLogger("detheads.serving")


Job = tuple[dict[str, Path], Settings, socket.socket, dict[str, str]]
"""What a worker is started with: bundles, settings, the port, and what runs each bundle."""


class Worker:
    """One process."""

    def __init__(self, context: SpawnContext, job: Job) -> None:
        self.ready: Event = context.Event()
        self.process: SpawnProcess = context.Process(target=_work, args=(*job, self.ready))
        self.process.start()
        self.started = time.monotonic()

    def signal(self, number: int) -> None:
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, number)


def run_workers(
    count: int,
    bundles: dict[str, Path],
    settings: Settings,
    listener: socket.socket,
    on_ready: Callable[[list[str]], None],
) -> int:
    """Serve with ``count`` processes until a signal asks for the end.

    Args:
        on_ready: called with a sentence for each model, when all of them answer.

    Returns:
        0 when every request that any of them accepted was answered, else 1.

    Raises:
        UserError: when a bundle cannot be opened or run.
    """
    begin_log()
    models = Models(bundles, settings)  # a mistake is told once, here, and not by every worker
    told, backends = told_of(models), models.backends
    asyncio.run(models.close())
    del models
    with tempfile.TemporaryDirectory(prefix="detheads-metrics-") as folder:
        os.environ[FOLDER] = folder
        try:
            return _Parent(count, (bundles, settings, listener, backends)).run(lambda: on_ready(told))
        finally:
            del os.environ[FOLDER]


class _Parent:
    def __init__(self, count: int, job: Job) -> None:
        self._context = multiprocessing.get_context("spawn")  # a forked copy of a runtime's threads would hang
        self._start = lambda: Worker(self._context, job)
        _, self._settings, self._listener, _ = job
        self._count = count
        self._workers: list[Worker] = []
        self._ending = False
        self._opened = False  # all of them have been ready once
        self._failed = False

    def run(self, on_ready: Callable[[], None]) -> int:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._pass_on)
        self._workers = [self._start() for _ in range(self._count)]
        while not self._ending:
            time.sleep(LOOK)
            self._replace_dead()
            if not self._opened and all(worker.ready.is_set() for worker in self._workers):
                self._opened = True
                on_ready()
        self._listener.close()  # the port is closed when the last worker closes it, too
        self._pass_on(signal.SIGTERM, None)  # for one that was just being started
        self._join()
        for worker in self._workers:
            # One that was still starting has accepted nothing; the signal's default action has ended it.
            if worker.ready.is_set() and worker.process.exitcode:
                log.error("worker %s ended with code %s", worker.process.pid, worker.process.exitcode)
                self._failed = True
        return int(self._failed)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGHUP:
            self._ending, number = True, signal.SIGTERM
        for worker in self._workers:
            worker.signal(number)

    def _replace_dead(self) -> None:
        for place, worker in enumerate(self._workers):
            if self._ending or worker.process.is_alive():
                continue
            if not worker.ready.is_set() and not self._opened:
                log.error("worker %s ended before it was ready; all are ended", worker.process.pid)
                self._failed = True
                self._pass_on(signal.SIGTERM, None)
                return
            if worker.ready.is_set() or time.monotonic() > worker.started + RETRY:
                log.error("worker %s died (%s); another one starts", worker.process.pid, worker.process.exitcode)
                mark_process_dead(worker.process.pid)
                self._workers[place] = self._start()

    def _join(self) -> None:
        until = time.monotonic() + self._settings.drain_seconds + GRACE
        for worker in self._workers:
            worker.process.join(max(0.0, until - time.monotonic()))
            if worker.process.is_alive():
                log.error("worker %s does not end; it is killed", worker.process.pid)
                worker.process.kill()
                worker.process.join()


def _work(
    bundles: dict[str, Path], settings: Settings, listener: socket.socket, backends: dict[str, str], ready: Event
) -> None:
    """What a worker does; its exit code is the server's."""
    for number in (signal.SIGINT, signal.SIGHUP):  # until the server takes them
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    begin_log()
    try:
        code = run_server(bundles, settings, listener, lambda told: ready.set(), backends)
    except UserError as error:
        log.error("%s", error)
        code = 1
    raise SystemExit(code)


def _follow_parent() -> None:
    """End when the parent is gone: nobody would pass a signal on any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
