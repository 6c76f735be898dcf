"""Where an arena's heads run: in processes of this machine, or on a Ray cluster.

Either way a head's failure, however violent, is a row of its own; only a full disk ends the arena.
"""

import json
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from detheads.arena.contest import Job, describe, failed
from detheads.arena.records import Row, log_path, read_row, write_row
from detheads.arena.worker import DISK_FULL
from detheads.foundation import atomic
from detheads.foundation.errors import UserError

CONNECT_SECONDS = 10.0

OnStep = Callable[[str, int, int], None]
"""Called with (head, step, total steps)."""
OnRow = Callable[[Row], None]
"""Called with each row as it is finished."""


def run_local(jobs: Sequence[Job], processes: int, on_step: OnStep, on_row: OnRow) -> None:
    """Run ``jobs`` in ``processes`` processes at a time, in order.

    Raises:
        UserError: when the disk is full; running heads are stopped and go on when the arena is started again.
    """
    running: dict[Future[Row], Job] = {}
    children: dict[str, subprocess.Popen[str]] = {}
    with ThreadPoolExecutor(processes) as threads:
        try:
            running = {threads.submit(_run_process, job, children, on_step): job for job in jobs}
            while running:
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    del running[future]
                    on_row(future.result())
        except BaseException:  # Ctrl+C as well: no process outlives the arena
            for waiting in running:
                waiting.cancel()
            for child in list(children.values()):
                child.terminate()
            raise


def _run_process(job: Job, children: dict[str, "subprocess.Popen[str]"], on_step: OnStep) -> Row:
    specification = log_path(job.arena, job.head).with_suffix(".json")
    atomic.write_text(specification, job.model_dump_json(indent=2))
    command = [sys.executable, "-m", "detheads.arena.worker", str(specification)]
    with log_path(job.arena, job.head).open("w", encoding="utf-8") as log:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as child:
            children[job.head] = child
            assert child.stdout is not None
            for line in child.stdout:
                try:
                    message = json.loads(line)
                    on_step(job.head, message["step"], message["total"])
                except (ValueError, KeyError, TypeError):  # something else printed
                    log.write(line)
        del children[job.head]
    row = read_row(job.arena, job.head)
    if row is not None:
        return row
    if child.returncode == DISK_FULL:
        raise disk_full(job.arena)
    row = failed(job, f"{_ending(child.returncode)}; see {log_path(job.arena, job.head)}")
    write_row(job.arena, row)
    return row


def run_ray(jobs: Sequence[Job], address: str, on_row: OnRow) -> None:
    """Run ``jobs`` on a Ray cluster, as many at a time as it has CPUs for. All machines need to see the same folders.

    Raises:
        UserError: when Ray is not installed or there is no cluster at the address.
    """
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError:
        raise UserError("Ray is not installed; pip install 'detheads[ray]'.") from None
    _require_listener(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, namespace="detheads")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"there is no Ray cluster at {address} ({describe(error)}); start one with 'ray start'."
        ) from None
    try:
        remote = ray.remote(max_retries=0)(_compete_remotely)
        running = {remote.options(num_cpus=job.threads).remote(job.model_dump_json()): job for job in jobs}
        while running:
            (done,), _ = ray.wait(list(running))
            job = running.pop(done)
            try:
                row = Row.model_validate_json(ray.get(done))
            except RayError as error:  # the worker died, or its machine
                row = failed(job, f"the Ray worker died ({describe(error)})")
            write_row(job.arena, row)
            on_row(row)
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Ray itself tries for minutes to reach an address where nothing listens."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():
        return  # "auto" and the like, which Ray looks up
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, describe(error)) from None


def _no_cluster(address: str, reason: str) -> UserError:
    return UserError(f"there is no Ray cluster at {address} ({reason}); start one with 'ray start'.")


def _compete_remotely(specification: str) -> str:
    """Train one head in a Ray worker; returns the row as JSON."""
    from detheads.arena.contest import compete

    job = Job.model_validate_json(specification)
    try:
        return compete(job).model_dump_json()
    except Exception as error:
        return failed(job, describe(error)).model_dump_json()


def disk_full(folder: Path) -> UserError:
    return UserError(f"the disk of {folder} is full; free some space and run the same command again, which goes on.")


def _ending(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"its process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"its process ended with exit code {code} and no result"
