"""What a server is told when it starts."""

import hashlib
import hmac
from dataclasses import dataclass, field

from detheads.deploy.monitor.observer import Observing
from detheads.deploy.session import CPU
from detheads.foundation.cores import available_cores
from detheads.foundation.images import FORMATS


def one_a_core() -> int:
    """Decoders of a server that was told no number: one a core, 8 at most, since each may hold a large picture."""
    return min(8, available_cores())


@dataclass(frozen=True)
class Settings:
    """Limits and ways of a server. Every number bounds what one client can take from the others.

    Attributes:
        backend: what runs the bundles (see :class:`detheads.deploy.session.BundleSession`).
        threads: CPU threads of one run of a graph; the library's own choice when None.
        max_batch: pictures in one run of a graph.
        gather: run pictures of several requests together without asking whether that is faster here.
        max_wait_ms: how long a picture waits at most for others to run with it, while others are on their way.
        queue: requests that were accepted and not yet answered; more are refused with 429.
        max_bytes: bytes of a request's body.
        max_pixels: pixels of a picture, told by its header before it is decoded.
        types: formats of pictures that are decoded, by Pillow's names.
        upload_seconds: how long a request may take to arrive.
        notice_seconds: how long the server says that it is not ready, and still answers, before it closes its port.
        drain_seconds: how long accepted requests may take to be answered once the server was asked to end.
        decoders: threads that decode pictures.
        watch_seconds: how often the bundles are looked at, whether they were replaced; 0 for never.
        token: what clients have to send as ``Authorization: Bearer TOKEN``; nothing when None.
        access_log: a JSON line on standard output for each request.
        observing: what is watched for drift, and which pictures are kept.
    """

    backend: str = CPU
    threads: int | None = None
    max_batch: int = 8
    gather: bool = False
    max_wait_ms: float = 2.0
    queue: int = 128
    max_bytes: int = 16 << 20
    max_pixels: int = 50_000_000
    types: tuple[str, ...] = FORMATS
    upload_seconds: float = 15.0
    notice_seconds: float = 1.0
    drain_seconds: float = 30.0
    decoders: int = field(default_factory=one_a_core)
    watch_seconds: float = 2.0
    token: str | None = field(default=None, repr=False)
    access_log: bool = False
    observing: Observing = field(default_factory=Observing)

    def allows(self, token: str) -> bool:
        """Whether a client that sends this token may ask; the time this takes does not tell how much of it is right."""
        if self.token is None:
            return True
        given, wanted = (hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in (token, self.token))
        return hmac.compare_digest(given, wanted)
