"""A real server on loopback, asked by a real client."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from detheads.deploy import Detector
from detheads.deploy.serving.models import Models
from detheads.deploy.serving.server import Server, address_of, listen
from detheads.deploy.serving.settings import Settings


@contextmanager
def running(bundles: dict[str, Path], settings: Settings) -> Iterator[tuple[httpx.Client, Models]]:
    """The server in a thread of this process, and a client of it."""
    models = Models(bundles, settings)
    listener, ready = listen("127.0.0.1", 0), threading.Event()
    server = Server(models, settings, ready.set)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        with httpx.Client(base_url=address_of(listener), timeout=20) as client:
            yield client, models
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    """``with serve({"toy": bundle}, queue=4) as (client, models)``."""
    return lambda bundles, **settings: running(bundles, Settings(threads=1, **{"gather": True} | settings))


@pytest.fixture(scope="session")
def client(serve: Callable[..., Any], bundle: Path) -> Iterator[httpx.Client]:
    """Of a server of the toy with the limits of the tests."""
    with serve({"toy": bundle}, max_bytes=1 << 20, max_pixels=400_000) as (found, _):
        yield found


@pytest.fixture(scope="session")
def detector(bundle: Path) -> Detector:
    return Detector(bundle, threads=1)


@pytest.fixture(scope="session")
def address(bundle: Path) -> Iterator[str]:
    """``host:port`` of ``detheads deploy serve`` in a process of its own, with the toy as ``toy`` and as ``second``."""
    command = [sys.executable, "-m", "detheads", "deploy", "serve", f"toy={bundle}", f"second={bundle}"]
    command += ["--port", "0", "--threads", "1", "--watch-seconds", "0", "--max-megabytes", "4"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout is not None
        said = []
        for line in server.stdout:
            said.append(line)
            if (start := line.find("http://")) >= 0:
                break
        assert "http://" in said[-1], said
        yield line[start:].split()[0].removeprefix("http://").rstrip("/.")
        server.terminate()
        assert server.wait(30) == 0


@pytest.fixture(scope="session")
def triton_http() -> Any:
    """The client of record of the Open Inference Protocol."""
    try:
        import tritonclient.http
    except (ImportError, RuntimeError):  # the latter without its extra
        pytest.skip("needs tritonclient[http], of the extra 'dev'")
    return tritonclient.http
