"""A bundle behind ``deploy serve`` under load, beside the bare session on the same machine in the same run."""

import io
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detheads.bench.load import Load, put_load
from detheads.deploy.detector import Detector
from detheads.deploy.session import BundleSession
from detheads.foundation.errors import UserError
from detheads.foundation.images import load_image
from detheads.foundation.progress import Progress, silent
from detheads.foundation.reading import read_bytes

READY = re.compile(r"^serving at (http://\S+)$", re.MULTILINE)
PAUSE = 0.5
"""Seconds of rest before each turn: the threads of a runtime spin for a moment after a run."""
LARGEST = 1 << 28
"""Bytes of a picture."""


@dataclass(frozen=True)
class Served:
    """One server under one load.

    Attributes:
        max_batch: pictures that it may run together.
        clients: how many ask at the same time.
        rate: pictures a second, median of the rounds.
        bare: pictures a second of the bare session on ready tensors of ``max_batch`` pictures (baseline).
        p50: milliseconds of a request, half took less.
        p99: the same of 99 in 100.
        failed: requests without a good answer.
    """

    max_batch: int
    clients: int
    rate: float
    bare: float
    p50: float
    p99: float
    failed: int

    @property
    def ratio(self) -> float:
        return self.rate / self.bare


@dataclass(frozen=True)
class ServingBench:
    """What serving costs, and what batching brings.

    Attributes:
        alone: one client after itself, batching on: what a request takes without any waiting.
        single: all clients, one picture a run.
        batched: all clients, up to ``max_batch`` pictures a run.
        prepare_ms: decoding and letterbox of the picture, on one core: work that the bare session has not.
    """

    runtime: str
    workers: int
    rounds: int
    seconds: float
    prepare_ms: float
    alone: Served
    single: Served
    batched: Served

    @property
    def gain(self) -> float:
        """Pictures a second with batches over those without."""
        return self.batched.rate / self.single.rate


def bench_serving(
    bundle: Path,
    picture: Path | None = None,
    *,
    clients: int = 16,
    max_batch: int = 8,
    seconds: float = 5.0,
    rounds: int = 3,
    threads: int | None = None,
    backend: str = "cpu",
    workers: int = 1,
    on_progress: Progress = silent,
) -> ServingBench:
    """Load two servers of a bundle, without and with batches, and run its bare session, in turns.

    Args:
        picture: what is sent; a generated JPEG of 640x480 pixels when None.
        clients: how many send their next request as soon as they have an answer.
        seconds: of each turn.
        rounds: turns of each.

    Raises:
        UserError: when the bundle or the picture cannot be used, or a server does not start.
    """
    content = _jpeg() if picture is None else read_bytes(picture, LARGEST)
    detector = Detector.load(bundle, backend=backend, threads=threads)
    prepared, _ = detector.prepare(load_image(content))
    one = prepared.transpose(2, 0, 1)[np.newaxis]  # [1, 3, H, W]
    kinds = {"alone": (max_batch, 1), "single": (1, clients), "batched": (max_batch, clients)}
    loads: dict[str, list[Load]] = {kind: [] for kind in kinds}
    bare: dict[int, list[float]] = {1: [], max_batch: []}
    turns, done = rounds * (len(kinds) + len(bare)), 0
    with ExitStack() as stack:
        options = ["--backend", backend, "--workers", str(workers), *(["--threads", str(threads)] if threads else [])]
        address = {size: stack.enter_context(_server(bundle, [*options, "--max-batch", str(size)])) for size in bare}
        for _ in range(rounds):
            for size, rates in bare.items():
                time.sleep(PAUSE)
                rates.append(_bare_rate(detector.session, np.repeat(one, size, axis=0), seconds))
                on_progress("turns", done := done + 1, turns)
            for kind, (size, asking) in kinds.items():
                time.sleep(PAUSE)
                loads[kind].append(put_load(address[size], content, clients=asking, seconds=seconds))
                on_progress("turns", done := done + 1, turns)
    results = {
        kind: _served(loads[kind], size, asking, median(bare[size if asking > 1 else 1]))
        for kind, (size, asking) in kinds.items()
    }
    return ServingBench(detector.session.runtime, workers, rounds, seconds, _prepare_ms(detector, content), **results)


def _served(loads: list[Load], max_batch: int, clients: int, bare: float) -> Served:
    latencies = 1000 * np.array([latency for load in loads for latency in load.latencies])
    return Served(
        max_batch,
        clients,
        median(load.rate for load in loads),
        bare,
        float(np.percentile(latencies, 50)),
        float(np.percentile(latencies, 99)),
        sum(load.failed for load in loads),
    )


def _bare_rate(session: BundleSession, images: NDArray[np.uint8], seconds: float) -> float:
    """Pictures a second of a loop that does nothing but run the graph."""
    session.run(images)
    began, runs = time.perf_counter(), 0
    while (now := time.perf_counter()) - began < seconds:
        session.run(images)
        runs += 1
    return runs * len(images) / (now - began)


def _prepare_ms(detector: Detector, content: bytes) -> float:
    def once() -> float:
        began = time.perf_counter()
        detector.prepare(load_image(content))
        return 1000 * (time.perf_counter() - began)

    return median(once() for _ in range(11))


@contextmanager
def _server(bundle: Path, options: list[str]) -> Iterator[str]:
    """A server process on a free port; its address."""
    command = [sys.executable, "-m", "detheads", "deploy", "serve", str(bundle), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = ""
        try:
            for line in process.stderr:
                told += line
                if found := READY.search(told):
                    break
            else:
                raise UserError(f"the server did not start: {' '.join(told.split())}")
            yield found[1]
        finally:
            process.terminate()
            process.communicate()


def _jpeg() -> bytes:
    """Soft colours, of which a JPEG has about as many bytes as of a photograph."""
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 256, (120, 160, 3), dtype=np.uint8))
    stream = io.BytesIO()
    small.resize((640, 480), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()
