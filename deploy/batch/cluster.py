"""Parts on the workers of a Ray cluster, or of this machine under Ray: each is an actor that holds the bundle open.

A worker that dies is replaced, and its part goes to the next one that is free.
"""

import errno
import importlib
import logging
import socket
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from detheads.deploy.batch.part import is_full, open_detector, run_part
from detheads.deploy.batch.plan import Job
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Remark

CONNECT_SECONDS = 10.0
"""To reach an address; Ray itself tries for minutes where nothing listens."""
SILENCE_SECONDS = 60.0
"""Without a worker that has started, after which that is remarked on."""
LOST_STARTS = 3
"""Workers that die one after the other while they start, after which no more are begun."""

DISK_FULL = "the disk is full"
"""What a worker says of what no retry cures."""

OnPart = Callable[[int, str], None]
"""Called with a part, and why it was given up; empty when it is done."""


@dataclass(frozen=True)
class Workers:
    """Where parts are worked on.

    Attributes:
        count: workers at most.
        address: of a cluster; None: Ray is started on this machine.
        gpus: of each worker; parts of one are possible.
    """

    count: int
    address: str | None = None
    gpus: float = 0.0


class Worker:
    """What runs in a process of its own, here or elsewhere. Mistakes come back as sentences."""

    def __init__(self, job: str) -> None:
        self._job = Job.from_json(job)
        self._detector: Any = None

    def start(self) -> str:
        """Open the bundle; empty when that went well."""
        try:
            self._detector = open_detector(self._job)
        except Exception as error:
            return _said(error)
        return ""

    def work(self, part: int) -> str:
        """Run a part; empty when it is done."""
        try:
            run_part(self._detector, self._job, part)
        except Exception as error:
            return DISK_FULL if is_full(error) else _said(error)
        return ""


def run_on_ray(
    job: Job, parts: Sequence[int], workers: Workers, retries: int, on_part: OnPart, on_remark: Remark
) -> None:
    """Run parts on workers.

    Args:
        retries: times that a part is begun again after it failed or its worker died.

    Raises:
        ModuleNotFoundError: when Ray is not installed.
        UserError: when there is no cluster, it has not what a worker needs, or workers do not start.
    """
    ray = importlib.import_module("ray")
    needs = {"num_cpus": float(job.threads or 1), "num_gpus": workers.gpus}
    count = min(workers.count, len(parts))
    _connect(ray, workers, count, needs)
    try:
        _require_room(ray, needs)
        _Crew(ray, job, needs, deque(parts), retries, on_part, on_remark).work(count)
    finally:
        ray.shutdown()


@dataclass
class _Crew:
    """The workers and what is left to do.

    Attributes:
        running: what Ray answers for -> the worker, and its part; None while it starts.
    """

    ray: Any
    job: Job
    needs: dict[str, float]
    waiting: deque[int]
    retries: int
    on_part: OnPart
    on_remark: Remark
    idle: list[Any] = field(default_factory=list)
    running: dict[Any, tuple[Any, int | None]] = field(default_factory=dict)
    failures: Counter[int] = field(default_factory=Counter)
    lost_starts: int = 0
    started: bool = False

    def work(self, count: int) -> None:
        for _ in range(count):
            self._hire()
        while self.waiting or any(part is not None for _, part in self.running.values()):
            done, _ = self.ray.wait(list(self.running), timeout=SILENCE_SECONDS)
            if done:
                self._hear(done[0])
            elif not self.started:
                self.on_remark(f"no worker has started in {SILENCE_SECONDS:.0f} s: the cluster has no room for it yet")
            while self.idle and self.waiting:
                worker, part = self.idle.pop(), self.waiting.popleft()
                self.running[worker.work.remote(part)] = worker, part

    def _hire(self) -> None:
        worker = self.ray.remote(Worker).options(max_restarts=0, **self.needs).remote(self.job.to_json())
        self.running[worker.start.remote()] = worker, None

    def _hear(self, answer: Any) -> None:
        worker, part = self.running.pop(answer)
        try:
            failure = self.ray.get(answer)
        except self.ray.exceptions.RayError as error:  # the worker died, or its machine
            self._lost(part, _said(error))
            return
        if failure == DISK_FULL:
            raise OSError(errno.ENOSPC, failure)
        if part is None and failure:
            raise UserError(f"a worker does not start: {failure}")
        self.started, self.lost_starts = True, 0
        self.idle.append(worker)
        if part is not None:
            self._judge(part, failure)

    def _lost(self, part: int | None, reason: str) -> None:
        if part is None:
            self.lost_starts += 1
            if self.lost_starts >= LOST_STARTS:
                raise UserError(f"{LOST_STARTS} workers died while they started ({reason}); Ray's logs say more.")
        else:
            self._judge(part, f"its worker died ({reason})")
        self._hire()

    def _judge(self, part: int, failure: str) -> None:
        if failure:
            self.failures[part] += 1
            if self.failures[part] <= self.retries:
                self.on_remark(f"part {part} is done again: {failure.rstrip('.')}")
                self.waiting.append(part)
                return
        self.on_part(part, failure)


def _connect(ray: Any, workers: Workers, count: int, needs: dict[str, float]) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "detheads"}
    if workers.address is None:
        # As many processors as the workers ask for: on one machine that is the user's business, and not Ray's.
        ray.init(num_cpus=max(1, round(count * needs["num_cpus"])), include_dashboard=False, **quiet)
        return
    host, separator, port = workers.address.removeprefix("ray://").rpartition(":")
    try:
        if separator and port.isdigit():
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        ray.init(address=workers.address, **quiet)
    except (ConnectionError, OSError, OverflowError, ValueError, RuntimeError) as error:
        raise UserError(
            f"there is no Ray cluster at {workers.address} ({_said(error).rstrip('.')}); start one with 'ray start'."
        ) from None


def _require_room(ray: Any, needs: dict[str, float]) -> None:
    """Refuse what no machine of the cluster can ever hold; more workers than it has room for only start later."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= needs["num_cpus"] and node.get("GPU", 0) >= needs["num_gpus"] for node in nodes):
        most = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in ("CPU", "GPU")}
        raise UserError(
            f"a worker needs {needs['num_cpus']:g} CPUs and {needs['num_gpus']:g} GPUs, and no machine of the cluster "
            f"has more than {most['CPU']:g} and {most['GPU']:g}; ask for less with --threads and --gpus-per-worker."
        )


def _said(error: BaseException) -> str:
    """An error's first sentence in one line; Ray's go on for a page."""
    text = " ".join(str(error).split()).partition(". ")[0][:300]
    return text if isinstance(error, UserError) and text else f"{type(error).__name__}: {text}" if text else repr(error)
