"""A real server on loopback, asked by a real client."""

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
    return lambda bundles, **settings: running(bundles, Settings(threads=1, **settings))


@pytest.fixture(scope="session")
def client(serve: Callable[..., Any], bundle: Path) -> Iterator[httpx.Client]:
    """Of a server of the toy with the limits of the tests."""
    with serve({"toy": bundle}, max_bytes=1 << 20, max_pixels=400_000) as (found, _):
        yield found


@pytest.fixture(scope="session")
def detector(bundle: Path) -> Detector:
    return Detector(bundle, threads=1)
