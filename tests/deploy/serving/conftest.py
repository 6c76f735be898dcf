"""A real server on loopback, asked by a real client."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from detheads.deploy import Detector
from detheads.deploy.serving.app import create_app
from detheads.deploy.serving.models import Models
from detheads.deploy.serving.settings import Settings


@contextmanager
def running(bundles: dict[str, Path], settings: Settings) -> Iterator[tuple[httpx.Client, Models]]:
    """The server in a thread of this process, and a client of it."""
    models = Models(bundles, settings)
    server = uvicorn.Server(uvicorn.Config(create_app(models, settings), port=0, log_level="warning"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield client, models
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    """``with serve({"toy": bundle}, queue=4) as (client, models)``."""
    return lambda bundles, **settings: running(bundles, Settings(threads=1, **settings))


@pytest.fixture(scope="session")
def client(serve: Callable[..., Any], bundle: Path) -> Iterator[httpx.Client]:
    """Of a server of the toy with the limits of the tests."""
    with serve({"toy": bundle}, max_bytes=1 << 20, max_pixels=400_000) as (found, _):
        yield found


@pytest.fixture(scope="session")
def detector(bundle: Path) -> Detector:
    return Detector(bundle, threads=1)
