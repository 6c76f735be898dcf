"""Clients of every kind for a server: those that send pictures, and those that send anything else or hang up."""

import io
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from itertools import count
from typing import Any

import numpy as np
from PIL import Image

PATIENCE = 60.0
"""Seconds until an answer counts as missing."""

KINDS = {
    "valid": (70, 200),
    "corrupt": (7, 400),
    "no picture": (3, 415),
    "too many bytes": (4, 413),
    "too many pixels": (2, 413),
    "unknown model": (2, 404),
    "slow": (1, 200),
    "too slow": (1, 408),
    "truncated": (4, 0),
    "killed": (6, 0),
}
"""Of 100 requests so many, and the status that each gets; 0: the client hangs up before its answer."""


class Broken(Exception):  # noqa: N818 - of a connection, as the server ends or is not there yet
    """No answer came, or only a part of one."""


@dataclass
class Seen:
    """What clients saw, all of them together.

    Attributes:
        answered: by status.
        aborted: ids of requests that were begun and given up on purpose.
        broken: ids of requests whose connection was refused or ended without an answer; they are sent again.
        wrong: answers that are not what they should be.
    """

    answered: Counter[int] = field(default_factory=Counter)
    aborted: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Crowd:
    """Several clients that work off one list of requests.

    Args:
        address: host and port; the server there may go and come back.
        pictures: files that are sent, and the detections that each must get.
        limits: bytes of a body, pixels of a picture, seconds of an upload that the server was told.
    """

    def __init__(
        self,
        address: tuple[str, int],
        pictures: Sequence[tuple[bytes, list[dict[str, Any]]]],
        *,
        max_bytes: int,
        max_pixels: int,
        upload_seconds: float,
        seed: int = 0,
    ) -> None:
        self.address, self.pictures, self.seen = address, pictures, Seen()
        self.upload_seconds, self.max_bytes = upload_seconds, max_bytes
        self.random = random.Random(seed)
        self.bomb = _bomb(max_pixels)
        self.sent = 0

    def send(self, requests: int, clients: int, on_sent: Callable[[int], None]) -> None:
        """Send so many requests, ``clients`` at a time. ``on_sent``: called with how many are over."""
        kinds = self.random.choices(list(KINDS), [share for share, _ in KINDS.values()], k=requests)
        jobs = iter(enumerate(kinds))

        def client() -> None:
            while True:
                with self.seen.lock:
                    number, kind = next(jobs, (0, ""))
                if not kind:
                    return
                self._until_answered(number, kind)
                with self.seen.lock:
                    self.sent += 1
                    sent = self.sent
                on_sent(sent)

        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _until_answered(self, number: int, kind: str) -> None:
        """Send a request, again where the queue is full or the server is away."""
        end = time.monotonic() + PATIENCE
        for attempt in count():
            if time.monotonic() > end:
                break
            name = f"{number}-{attempt}"
            try:
                status, body = self._send(number, kind, name)
            except (Broken, OSError, HTTPException):
                with self.seen.lock:
                    self.seen.broken.add(name)
                time.sleep(0.05)
                continue
            wanted = KINDS[kind][1]
            with self.seen.lock:
                if status:
                    self.seen.answered[status] += 1
                else:
                    self.seen.aborted.add(name)
                if status not in {wanted, 429} or (status == 200 and self._differs(number, body)):
                    self.seen.wrong.append(f"{kind}: {status} {body[:200]!r}")
            if status != 429:
                return
            time.sleep(0.05)
        with self.seen.lock:
            self.seen.wrong.append(f"{kind}: no answer")

    def _differs(self, number: int, body: bytes) -> bool:
        return bool(json.loads(body)["detections"] != self.pictures[number % len(self.pictures)][1])

    def _send(self, number: int, kind: str, name: str) -> tuple[int, bytes]:
        content = self.pictures[number % len(self.pictures)][0]
        path, told = "/v1/detect", None
        if kind == "corrupt":
            content = content[: len(content) // 2]
        elif kind == "no picture":
            content = b"\0nothing" * 20
        elif kind == "too many bytes":
            told = self.max_bytes * 10
        elif kind == "too many pixels":
            content = self.bomb
        elif kind == "unknown model":
            path += "?model=nobody"
        with socket.create_connection(self.address, timeout=PATIENCE) as connection:
            length = len(content) if told is None else told
            head = f"POST {path} HTTP/1.1\r\nHost: crowd\r\nX-Request-Id: {name}\r\nContent-Length: {length}\r\n\r\n"
            connection.sendall(head.encode())
            if kind in {"slow", "too slow"}:
                self._dribble(connection, content, self.upload_seconds * (0.5 if kind == "slow" else 1.5))
            else:
                connection.sendall(content[:-9] if kind == "truncated" else content)
            if kind in {"truncated", "killed"}:
                time.sleep(0.02 * (number % 3))
                return 0, b""
            return _answer(connection)

    def _dribble(self, connection: socket.socket, content: bytes, seconds: float) -> None:
        pieces = 8
        for start in range(0, len(content), -(-len(content) // pieces)):
            time.sleep(seconds / pieces)
            try:
                connection.sendall(content[start : start - (-len(content) // pieces)])
            except OSError:  # the server has had enough, and its answer waits to be read
                return


def _answer(connection: socket.socket) -> tuple[int, bytes]:
    answer = HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.read()


def _bomb(pixels: int) -> bytes:
    """A small file of too many pixels."""
    side = int(pixels**0.5) + 1
    stream = io.BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint8)).save(stream, "PNG")
    return stream.getvalue()
