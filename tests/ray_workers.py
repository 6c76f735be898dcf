"""Workers of a command line that runs on Ray: killed in the middle of their work, as machines of a cluster are."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil


def command(*words: object) -> list[str]:
    """A command line of this package."""
    return [sys.executable, "-m", "detheads", *map(str, words)]


def start(*words: object) -> "subprocess.Popen[str]":
    """A command line in a process of its own."""
    return subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def workers_of(process: psutil.Process, doing: str = "") -> list[psutil.Process]:
    """The processes below ``process`` that work on parts.

    Args:
        doing: the method that they are in, by the title that Ray gives them.
    """
    found = []
    for child in process.children(recursive=True):
        try:
            if ("ray::Worker" + (doing and f".{doing}")) in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:  # gone meanwhile
            continue
    return found


def kill_a_worker(
    run: "subprocess.Popen[str]",
    in_the_middle: Callable[[], bool],
    of: psutil.Process | None = None,
    doing: str = "",
) -> list[psutil.Process]:
    """SIGKILL to a worker once it is in the middle of something; the others, which live.

    Args:
        of: the process that has started the cluster; the run itself when None.
    """
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and run.poll() is None:
        workers = workers_of(of or psutil.Process(run.pid), doing) if in_the_middle() else []
        if workers:
            os.kill(workers[0].pid, signal.SIGKILL)
            return workers[1:]
        time.sleep(0.01)
    run.kill()
    raise AssertionError(f"no worker was found in the middle of its work: {run.communicate()}")
