"""Running tests in forks, each in a copy of the working tree that holds one fault."""

import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from changes import Mutant

ROOMS_OUTSIDE = ("analytical", "export", "deploy")
"""Packages of ``detheads`` that lie beside its folder; a link puts them where an import from the copy finds them."""
HEAVY = ("torch", "torchvision", "timm", "open_clip", "onnx", "onnxscript", "onnxruntime", "scipy.optimize",
         "sklearn.discriminant_analysis", "sklearn.linear_model", "pycocotools.coco", "matplotlib.pyplot",
         "hypothesis.strategies", "rich.console", "typer", "pydantic", "pytest")  # fmt: skip
PASSED, FAILED, INTERRUPTED = 0, 1, 2
"""Exit codes of pytest; a mutant that cannot be imported interrupts it."""


def import_heavy() -> None:
    """What every fork shares. One thread each: a pool of threads does not survive a fork."""
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    for name in HEAVY:
        importlib.import_module(name)


@dataclass(frozen=True)
class Job:
    """Tests to run, against a mutant or (None) against the tree as it is, for ``limit`` seconds at most."""

    mutant: Mutant | None
    tests: tuple[str, ...]
    limit: float


@dataclass(frozen=True)
class Ended:
    """``outcome``: ``killed``, ``timed out`` or ``survived``. ``log``: what pytest printed."""

    job: Job
    outcome: str
    seconds: float
    log: str


@dataclass(frozen=True)
class _Running:
    job: Job
    tree: Path
    started: float


class Runner:
    """Runs jobs in forks of this process, as many at a time as there are workers; copies live in ``folder``."""

    def __init__(self, root: Path, folder: Path, workers: int) -> None:
        self._free = [_copy(root, folder / str(number) / "tree") for number in range(workers)]
        self._running: dict[int, _Running] = {}
        self._stamp = 1_000_000_000

    def run(self, jobs: Sequence[Job]) -> Iterator[Ended]:
        """Run the jobs in this order; yields each as it ends. Whatever still runs when the caller stops is killed."""
        waiting = list(reversed(jobs))
        try:
            while waiting or self._running:
                while waiting and self._free:
                    self._start(waiting.pop())
                for pid in list(self._running):
                    if (ended := self._ended(pid)) is not None:
                        yield ended
                time.sleep(0.02)
        finally:
            for pid in self._running:
                os.killpg(pid, signal.SIGKILL)

    def _start(self, job: Job) -> None:
        tree = self._free.pop()
        if job.mutant is not None:
            self._write(tree / job.mutant.file, job.mutant.source)
        pid = os.fork()
        if pid == 0:
            try:
                _run_tests(tree, job.tests)
            finally:
                os._exit(70)
        self._running[pid] = _Running(job, tree, time.monotonic())

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, "utf-8")
        self._stamp += 1  # Python tells compiled files apart by size and second of change
        os.utime(path, (self._stamp, self._stamp))

    def _ended(self, pid: int) -> Ended | None:
        running = self._running[pid]
        job, tree, seconds = running.job, running.tree, time.monotonic() - running.started
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended and seconds < job.limit:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # with what the tests have started
        if not ended:
            os.waitpid(pid, 0)
        del self._running[pid]
        if job.mutant is not None:
            self._write(tree / job.mutant.file, job.mutant.original)
        self._free.append(tree)
        log = (tree.parent / "log").read_text("utf-8", errors="replace")
        outcome = _outcome(os.waitstatus_to_exitcode(status), log) if ended else "timed out"
        return Ended(job, outcome, seconds, log)


def _copy(root: Path, tree: Path) -> Path:
    """Copy what git tracks or would track to ``tree``; the development data beside the checkout is linked."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (root / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, tree / name)
    for room in ROOMS_OUTSIDE:
        (tree / "detheads" / room).symlink_to(tree / room)
    if (root.parent / "shared").exists():
        (tree.parent / "shared").symlink_to(root.parent / "shared")
    return tree


def _run_tests(tree: Path, tests: Sequence[str]) -> None:
    """In the fork: run the tests against the copy and exit with pytest's code."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    scratch = tree.parent / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    log = os.open(tree.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(tree)
    os.environ.update(PYTHONPATH=str(tree), TMPDIR=str(scratch), HYPOTHESIS_STORAGE_DIRECTORY=str(scratch / "examples"))
    tempfile.tempdir = None
    sys.path[0] = str(tree)
    import pytest

    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={scratch / 'pytest'}", *tests])
    sys.stdout.flush()
    os._exit(int(code))


def _outcome(code: int, log: str) -> str:
    if code == PASSED:
        return "survived"
    if code in (FAILED, INTERRUPTED) or code < 0:  # below zero: ended by a signal
        return "killed"
    sys.exit(f"pytest could not run (exit code {code}):\n{log}")
