"""Where an arena's heads run: in processes of this machine, or on a Ray cluster.

Either way a head's failure, however violent, is a row of its own; only a full disk ends the arena.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from detheads.arena.contest import Job, compete, describe, failed
from detheads.arena.early import Halving
from detheads.arena.records import Row, log_path, read_row, write_row
from detheads.arena.worker import DISK_FULL
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Remark, unheard
from detheads.foundation.ray_cluster import Stopped, Tell, Workers, run_parts


@dataclass(frozen=True)
class Watch:
    """Callbacks: a step of a head, a finished row, the head whose latency is measured, a sentence about a worker."""

    on_step: Callable[[str, int, int], None] = lambda head, step, total: None
    on_row: Callable[[Row], None] = lambda row: None
    on_latency: Callable[[str], None] = lambda head: None
    on_remark: Remark = unheard


def run_local(jobs: Sequence[Job], processes: int, devices: Sequence[str], watch: Watch) -> None:
    """Run ``jobs`` in ``processes`` processes at a time, in order, and share the devices out among them.

    Raises:
        UserError: when the disk is full; running heads are stopped and go on when the arena is started again.
    """
    running: dict[Future[Row], Job] = {}
    children: dict[str, subprocess.Popen[str]] = {}
    free: SimpleQueue[str] = SimpleQueue()
    for place in range(processes):
        free.put(devices[place % len(devices)])

    def run(job: Job) -> Row:
        device = free.get()
        try:
            return _run_process(job.model_copy(update={"device": device}), children, watch.on_step)
        finally:
            free.put(device)

    with ThreadPoolExecutor(processes) as threads:
        try:
            running = {threads.submit(run, job): job for job in jobs}
            while running:
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    del running[future]
                    watch.on_row(future.result())
        except BaseException:  # Ctrl+C as well: no process outlives the arena
            for waiting in running:
                waiting.cancel()
            for child in list(children.values()):
                child.terminate()
            raise


def _run_process(
    job: Job, children: dict[str, "subprocess.Popen[str]"], on_step: Callable[[str, int, int], None]
) -> Row:
    specification = log_path(job.arena, job.name).with_suffix(".json")
    atomic.write_text(specification, job.model_dump_json(indent=2))
    command = [sys.executable, "-m", "detheads.arena.worker", str(specification)]
    with log_path(job.arena, job.name).open("w", encoding="utf-8") as log:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as child:
            children[job.name] = child
            assert child.stdout is not None
            for line in child.stdout:
                try:
                    message = json.loads(line)
                    on_step(job.name, message["step"], message["total"])
                except (ValueError, KeyError, TypeError):  # something else printed
                    log.write(line)
        del children[job.name]
    row = read_row(job.arena, job.name)
    if row is not None:
        return row
    if child.returncode == DISK_FULL:
        raise disk_full(job.arena)
    row = failed(job, f"{_ending(child.returncode)}; see {log_path(job.arena, job.name)}")
    write_row(job.arena, row)
    return row


def run_ray(jobs: Sequence[Job], workers: Workers, watch: Watch, halving: Halving | None = None) -> None:
    """Run ``jobs`` on a Ray cluster, as many at a time as it has room for. All machines need to see the same folders.

    A head whose worker dies goes on from its last checkpoint in another one; when that has died too often, and when the
    head itself fails, that is its row.

    Args:
        halving: decides which heads end early, by the first seed of each; none does when None.

    Raises:
        ModuleNotFoundError: when Ray is not installed.
        UserError: when there is no cluster at the address, it has not what a worker needs, or the disk is full.
    """
    waiting = {job.name: job for job in jobs}
    spent: dict[str, str] = {}

    def is_hopeless(head: str, step: int, total: int, ap: float) -> bool:
        percent = 100 * step * max(1, len(waiting[head].seeds)) / total
        if halving is None or percent > 100 or not halving.is_hopeless(head, percent, ap):
            return False
        spent[head] = (
            f"after {percent:.0f} % of its training its AP of {ap:.3f} was below the median of the heads that came so "
            "far before it"
        )
        return True

    def on_part(head: str, failure: str, row: str) -> None:
        job = waiting[head]
        finished = failed(job, failure) if failure else Row.model_validate_json(row)
        if finished.status == "stopped":
            finished = failed(job, spent[head], "stopped")
        elif halving is not None and finished.status == "done":
            halving.remember(job.arena, head)
        write_row(job.arena, finished)
        watch.on_row(finished)

    try:
        run_parts(
            partial(_prepared, {head: job.model_dump_json() for head, job in waiting.items()}),
            list(waiting),
            workers,
            on_part,
            on_far=watch.on_step,
            on_remark=watch.on_remark,
            name=str,
            is_hopeless=is_hopeless,
        )
    except OSError as error:
        if not atomic.is_full(error):
            raise
        raise disk_full(jobs[0].arena) from None


def _prepared(specifications: Mapping[str, str]) -> Callable[[str, Tell], str]:
    """What a worker on Ray does with a head: train it, and give its row as JSON."""

    def work(head: str, tell: Tell) -> str:
        job = Job.model_validate_json(specifications[head])
        try:
            row = compete(job, lambda status: tell(status.step, status.total_steps, status.best_ap))
        except Stopped:
            row = failed(job, "", "stopped")  # why is known where that was decided
        except OSError:  # of a network's file system, mostly: another try, on another machine perhaps
            raise
        except Exception as error:
            row = failed(job, describe(error))
        return row.model_dump_json()

    return work


def disk_full(folder: Path) -> UserError:
    return UserError(f"the disk of {folder} is full; free some space and run the same command again, which goes on.")


def _ending(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"its process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"its process ended with exit code {code} and no result"
