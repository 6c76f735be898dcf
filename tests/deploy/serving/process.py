"""A server that was started from the command line."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.deploy.serving.test_gate import until


class Process:
    """A server that was started from the command line, and what it has said so far.

    Args:
        output: file for its standard output.
    """

    def __init__(self, *arguments: object, output: Path | None = None, **environment: str) -> None:
        command = [sys.executable, "-m", "detheads", "deploy", "serve", "--threads", "1", "--port", "0"]
        self.running = subprocess.Popen(
            [*command, *map(str, arguments)],
            stdout=subprocess.PIPE if output is None else output.open("wb"),
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert until(lambda: "serving at" in self.told or self.running.poll() is not None, 60)
        found = re.search(r"serving at (\S+)", self.told)
        assert found, self.told
        self.client = httpx.Client(base_url=found[1], timeout=20)

    def _read(self) -> None:
        assert self.running.stderr is not None
        for line in self.running.stderr:
            self.lines.append(line)

    @property
    def told(self) -> str:
        return "".join(self.lines)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit code."""
        self.running.send_signal(number)
        code = self.running.wait(20)
        self._reader.join(5)
        return code

    def kill(self) -> None:
        self.client.close()
        self.running.kill()
        self.running.wait()


@contextmanager
def started(*arguments: object, **environment: str) -> Iterator[Process]:
    process = Process(*arguments, **environment)
    try:
        yield process
    finally:
        process.kill()
