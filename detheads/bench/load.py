"""Requests as fast as they are answered, from a process of its own: what a server is measured with."""

import multiprocessing
import threading
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

from detheads.foundation.errors import UserError

PATH = "/v1/detect"
TIMEOUT = 60.0
"""Seconds until a request counts as failed."""


@dataclass(frozen=True)
class Load:
    """What clients saw. Each sends its next request when it has the answer of the one before.

    Attributes:
        latencies: seconds of each request, in no order.
        rate: answers a second of all clients together.
        failed: answers that were not 200, and connections that broke.
    """

    latencies: tuple[float, ...]
    rate: float
    failed: int


def put_load(address: str, content: bytes, *, clients: int, seconds: float) -> Load:
    """Send one picture for so long, by so many clients.

    Args:
        address: ``http://HOST:PORT`` of a server of ours.

    Raises:
        UserError: when no request was answered.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_drive, args=(address, content, clients, seconds, there), daemon=True)
    process.start()
    there.close()
    try:
        load: Load = here.recv()
    except EOFError:
        raise UserError("the load generator ended by itself; see above why, and run the benchmark again.") from None
    process.join()
    if not load.latencies:
        raise UserError(f"{address} answered none of {load.failed} requests; look into its log.")
    return load


def _drive(address: str, content: bytes, clients: int, seconds: float, pipe: Connection) -> None:
    latencies: list[float] = []
    failed = [0] * clients
    start = threading.Barrier(clients + 1)

    def client(number: int) -> None:
        connection = HTTPConnection(urlsplit(address).netloc, timeout=TIMEOUT)
        start.wait()
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            try:
                connection.request("POST", PATH, content)
                answer = connection.getresponse()
                answer.read()
                good = answer.status == 200
            except OSError:
                good = False
                connection.close()
            if good:
                latencies.append(time.perf_counter() - began)
            else:
                failed[number] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    pipe.send(Load(tuple(latencies), len(latencies) / (time.perf_counter() - began), sum(failed)))
