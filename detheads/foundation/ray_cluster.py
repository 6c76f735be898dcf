"""Parts of some work on the workers of a Ray cluster, or of this machine under Ray.

Each worker is an actor, which prepares once and then takes one part after the other. One that dies is replaced, and its
part goes to the next one that is free.
"""

import errno
import importlib
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from detheads.foundation.atomic import is_full
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, Remark, unheard

CONNECT_SECONDS = 10.0
"""To reach an address; Ray itself tries for minutes where nothing listens."""
SILENCE_SECONDS = 60.0
"""Without a worker that has started, after which that is remarked on."""
LOST_STARTS = 3
"""Workers that die one after the other while they start, after which no more are begun."""
LOOK_SECONDS = 1.0
"""Between two looks at how far the workers are."""
RETRY_SECONDS = 3.0
"""Before a part is begun for the second time, and four times as long before each further one: what a machine has locked
on a network's file system stays locked for up to 90 seconds after it died (the lease of NFS 4)."""

DISK_FULL = "the disk is full"
"""What a worker says of what no retry cures."""
_LOOKING = "looking"
"""The group of calls that a worker answers while it works."""

Part = TypeVar("Part", bound=Hashable)


class Tell(Protocol):
    """Called by a worker with what is done of its part, what there is to do, and a figure of how well that went.

    Raises:
        Stopped: when the part is to end.
    """

    def __call__(self, done: int, total: int, figure: float | None = None, /) -> None: ...


Work = Callable[[Part, Tell], Any]
"""What a worker does with a part. It may be begun again anywhere, after any kill."""
Prepare = Callable[[], Work[Part]]
"""Called once in each worker, for what all its parts need; a function of a module or a ``partial`` of one."""


Hopeless = Callable[[Part, int, int, float], bool]
"""Called with a part, what is done of it, what there is to do, and its figure: whether it is to end."""
OnPart = Callable[[Part, str, Any], None]
"""Called with a part, why it was given up (empty when it is done), and what the work on it gave."""


class Stopped(Exception):  # noqa: N818 - no error
    """Ends the work on a part that is to end early."""


@dataclass(frozen=True)
class Workers:
    """Where parts are worked on.

    Attributes:
        count: workers at most.
        address: of a cluster; None: Ray is started on this machine.
        gpus: of each worker; parts of one are possible.
        threads: processors of each worker.
        retries: times that a part is begun again after it failed or its worker died.
    """

    count: int
    address: str | None = None
    gpus: float = 0.0
    threads: int = 1
    retries: int = 3


@dataclass
class Tally(Generic[Part]):
    """How far all parts together are.

    Attributes:
        step: name of the step, as it is reported.
        sizes: what there is to do of each part.
        there: what was done before, beside these parts.
    """

    step: str
    sizes: Mapping[Part, int]
    on_progress: Progress
    there: int = 0
    _far: dict[Part, int] = field(default_factory=dict)

    def far(self, part: Part, done: int, total: int) -> None:
        """A worker is so far with a part; one that is begun again counts as far as it was."""
        self._far[part] = max(done, self._far.get(part, 0))
        self.report()

    def finish(self, part: Part) -> None:
        """A part is done."""
        self.far(part, self.sizes[part], self.sizes[part])

    def report(self) -> None:
        self.on_progress(self.step, self.there + sum(self._far.values()), self.there + sum(self.sizes.values()))


class Worker(Generic[Part]):
    """What runs in a process of its own, here or elsewhere. Mistakes come back as sentences."""

    def __init__(self, prepare: Prepare[Part]) -> None:
        self._prepare = prepare
        self._work: Work[Part] | None = None
        self._far: tuple[int, int, float | None] = (0, 0, None)
        self._part: Part | None = None
        self._stopped: Part | None = None

    def start(self) -> str:
        """Prepare; empty when that went well."""
        try:
            self._work = self._prepare()
        except Exception as error:
            return said(error)
        return ""

    def work(self, part: Part) -> tuple[str, Any]:
        """Work on a part: why that failed, empty when it is done, and what it gave."""
        assert self._work is not None
        self._part = part
        try:
            return "", self._work(part, self._tell)
        except Exception as error:
            return (DISK_FULL if is_full(error) else said(error)), None
        finally:
            self._far, self._part = (0, 0, None), None

    def far(self) -> tuple[int, int, float | None]:
        """What is done of the part that is worked on, what there is to do (0: not known), and its figure."""
        return self._far

    def stop(self, part: Part) -> None:
        """End the work on a part, if this is the one that is worked on, when it next tells how far it is."""
        self._stopped = part

    def _tell(self, done: int, total: int, figure: float | None = None, /) -> None:
        self._far = done, total, figure
        if self._stopped is not None and self._stopped == self._part:
            raise Stopped


def run_parts(
    prepare: Prepare[Part],
    parts: Sequence[Part],
    workers: Workers,
    on_part: OnPart[Part],
    *,
    on_far: Callable[[Part, int, int], None] = lambda part, done, total: None,
    on_remark: Remark = unheard,
    name: Callable[[Part], str] = "part {}".format,
    is_hopeless: Hopeless[Part] = lambda part, done, total, figure: False,
) -> None:
    """Run parts on workers.

    Args:
        prepare: see :data:`Prepare`; all that it brings along is pickled.
        on_far: called now and then with a part that is worked on, what is done of it, and what there is to do.
        name: of a part, in remarks.
        is_hopeless: asked about a part whose work tells a figure; its next ``tell`` then raises :class:`Stopped`.

    Raises:
        ModuleNotFoundError: when Ray is not installed.
        UserError: when there is no cluster, it has not what a worker needs, or workers do not start.
        OSError: when a worker finds the disk full.
    """
    ray = importlib.import_module("ray")
    count = min(workers.count, len(parts))
    if not count:
        return
    _connect(ray, workers, count)
    try:
        _require_room(ray, workers)
        waiting = [(0.0, part) for part in parts]
        _Crew(ray, prepare, workers, waiting, on_part, on_far, on_remark, name, is_hopeless).work(count)
    finally:
        ray.shutdown()


@dataclass
class _Crew(Generic[Part]):
    """The workers and what is left to do.

    Attributes:
        waiting: parts to begin, each not before a moment of the monotonic clock.
        running: what Ray answers for -> the worker, and its part; None while it starts.
        looks: what Ray answers with how far a part is -> the part.
    """

    ray: Any
    prepare: Prepare[Part]
    workers: Workers
    waiting: list[tuple[float, Part]]
    on_part: OnPart[Part]
    on_far: Callable[[Part, int, int], None]
    on_remark: Remark
    name: Callable[[Part], str]
    is_hopeless: Hopeless[Part]
    idle: list[Any] = field(default_factory=list)
    running: dict[Any, tuple[Any, Part | None]] = field(default_factory=dict)
    looks: dict[Any, Part] = field(default_factory=dict)
    failures: Counter[Part] = field(default_factory=Counter)
    lost_starts: int = 0
    started: bool = False

    def work(self, count: int) -> None:
        for _ in range(count):
            self._hire()
        begun = looked = time.monotonic()
        while self.waiting or any(part is not None for _, part in self.running.values()):
            answers = [*self.running, *self.looks]
            if answers:
                for answer in self.ray.wait(answers, timeout=LOOK_SECONDS)[0]:
                    self._see(answer) if answer in self.looks else self._hear(answer)
            else:  # all parts that are left are to be begun again, but not yet
                time.sleep(LOOK_SECONDS)
            now = time.monotonic()
            if not self.started and now - begun > SILENCE_SECONDS:
                self.on_remark(f"no worker has started in {SILENCE_SECONDS:.0f} s: the cluster has no room for it yet")
                begun = now
            if now - looked > LOOK_SECONDS:
                self._look()
                looked = now
            self._begin(now)

    def _hire(self) -> None:
        options = {"num_cpus": self.workers.threads, "num_gpus": self.workers.gpus, "max_restarts": 0}
        actor = self.ray.remote(**options, concurrency_groups={_LOOKING: 1})(Worker)
        worker = actor.remote(self.prepare)
        self.running[worker.start.remote()] = worker, None

    def _begin(self, now: float) -> None:
        for entry in [entry for entry in self.waiting if entry[0] <= now][: len(self.idle)]:
            self.waiting.remove(entry)
            worker = self.idle.pop()
            self.running[worker.work.remote(entry[1])] = worker, entry[1]

    def _look(self) -> None:
        for worker, part in self.running.values():
            if part is not None and part not in self.looks.values():
                self.looks[worker.far.options(concurrency_group=_LOOKING).remote()] = part

    def _see(self, answer: Any) -> None:
        part = self.looks.pop(answer)
        try:
            done, total, figure = self.ray.get(answer)
        except self.ray.exceptions.RayError:  # the worker died, which the answer of its work says, too
            return
        at_work = [worker for worker, working in self.running.values() if working == part]
        if total and at_work:
            self.on_far(part, done, total)
            if figure is not None and self.is_hopeless(part, done, total, figure):
                at_work[0].stop.options(concurrency_group=_LOOKING).remote(part)

    def _hear(self, answer: Any) -> None:
        worker, part = self.running.pop(answer)
        try:
            found = self.ray.get(answer)
        except self.ray.exceptions.RayError as error:  # the worker died, or its machine
            self._lost(part, said(error))
            return
        if part is None:
            if found:
                raise UserError(f"a worker does not start: {found}")
        elif found[0] == DISK_FULL:
            raise OSError(errno.ENOSPC, DISK_FULL)
        self.started, self.lost_starts = True, 0
        self.idle.append(worker)
        if part is not None:
            self._judge(part, *found)

    def _lost(self, part: Part | None, reason: str) -> None:
        if part is None:
            self.lost_starts += 1
            if self.lost_starts >= LOST_STARTS:
                raise UserError(f"{LOST_STARTS} workers died while they started ({reason}); Ray's logs say more.")
        else:
            self._judge(part, f"its worker died ({reason})")
        self._hire()

    def _judge(self, part: Part, failure: str, result: Any = None) -> None:
        if failure:
            self.failures[part] += 1
            tried = self.failures[part]
            if tried <= self.workers.retries:
                self.on_remark(f"{self.name(part)} is done again: {failure.rstrip('.')}")
                self.waiting.append((time.monotonic() + RETRY_SECONDS * 4 ** (tried - 1), part))
                return
        self.on_part(part, failure, result)


def said(error: BaseException) -> str:
    """An error's first sentence in one line; Ray's go on for a page."""
    text = " ".join(str(error).split()).partition(". ")[0][:300]
    return text if isinstance(error, UserError) and text else f"{type(error).__name__}: {text}" if text else repr(error)


def _connect(ray: Any, workers: Workers, count: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "detheads"}
    if workers.address is None:
        # A Ray of its own, whatever runs here already, with as many processors as the workers ask for: on one machine
        # that is the user's business, and not Ray's.
        ray.init("local", num_cpus=count * workers.threads, include_dashboard=False, **quiet)
        return
    host, separator, port = workers.address.removeprefix("ray://").rpartition(":")
    try:
        if separator and port.isdigit():
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        ray.init(address=workers.address, **quiet)
    except (ConnectionError, OSError, OverflowError, ValueError, RuntimeError) as error:
        raise UserError(
            f"there is no Ray cluster at {workers.address} ({said(error).rstrip('.')}); start one with 'ray start'."
        ) from None


def _require_room(ray: Any, workers: Workers) -> None:
    """Refuse what no machine of the cluster can ever hold; more workers than it has room for only start later."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= workers.threads and node.get("GPU", 0) >= workers.gpus for node in nodes):
        most = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in ("CPU", "GPU")}
        raise UserError(
            f"a worker needs {workers.threads} CPUs and {workers.gpus:g} GPUs, and no machine of the cluster "
            f"has more than {most['CPU']:g} and {most['GPU']:g}; ask for less."
        )
