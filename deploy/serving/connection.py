"""A connection that does not wait for ever: uvicorn's own waits for bodies, headers and silent clients without end."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MARGIN = 1.0
"""Seconds after the limit, so that the gate's own answer (408) comes first where there is a request to answer."""


def bounded(seconds: float) -> type[H11Protocol]:
    """A protocol for uvicorn's ``http=``: a connection is closed when no whole request arrives within ``seconds``."""

    class Bounded(H11Protocol):
        _limit: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._limit = self.loop.call_later(seconds + MARGIN, self._too_slow)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._judge()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._judge()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._stop()

        def _judge(self) -> None:
            """Start the clock at the first byte of a request, stop it at its last; between requests it stands still."""
            begun = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
            if not begun and self.conn.their_state is not h11.SEND_BODY:
                self._stop()
            elif self._limit is None:
                self._limit = self.loop.call_later(seconds + MARGIN, self._too_slow)

        def _stop(self) -> None:
            if self._limit is not None:
                self._limit.cancel()
                self._limit = None

        def _too_slow(self) -> None:
            self._limit = None
            self.transport.abort()

    return Bounded
