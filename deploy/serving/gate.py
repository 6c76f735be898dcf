"""What every request passes before a handler sees it, whatever interface it belongs to."""

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from time import perf_counter
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from detheads.deploy.serving.metrics import Metrics
from detheads.deploy.serving.refusals import Refused
from detheads.deploy.serving.settings import Settings
from detheads.deploy.serving.traffic import Traffic

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID = "x-request-id"
_USABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
WITHOUT_SLOT = frozenset({"GET", "HEAD", "OPTIONS"})
"""What asks for no work of a model is answered even when the queue is full: health, metrics, the page."""

log = logging.getLogger("detheads.serving")


class GoneError(Exception):
    """The client hung up before its answer."""


class Exchange:
    """A request and what became of it, for the log and the counters.

    Args:
        closing: the answer says that the connection ends with it.
    """

    def __init__(self, scope: Scope, send: Send, *, closing: bool) -> None:
        self.scope, self._send, self._closing = scope, send, closing
        given = Request(scope).headers.get(REQUEST_ID, "")  # of a proxy before us, kept where it is harmless
        self.id = given if _USABLE_ID.fullmatch(given) else secrets.token_hex(8)
        self.began = perf_counter()
        self.status = 0  # 0: no answer
        self.complete = False

    @property
    def route(self) -> str:
        """The path as it was declared, so that counters do not grow with what clients invent."""
        return str(getattr(self.scope.get("route"), "path", "other"))

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = [(REQUEST_ID.encode(), self.id.encode())]
            if self._closing:  # the client's next request goes elsewhere, and none is lost on a connection that ends
                own.append((b"connection", b"close"))
            message["headers"] = [*message.get("headers", []), *own]
        elif message["type"] == "http.response.body" and not message.get("more_body"):
            self.complete = True
        await self._send(message)


class Gate:
    """Token, bounds on bodies and their duration, the bounded queue, and the end of requests whose client has gone.

    A request's whole body is here before its handler is called, so that a slow or broken upload costs no thread and no
    model. Memory is bounded by ``queue`` bodies of ``max_bytes``.

    Args:
        app: what it stands before.
        unguarded: paths that need no token, or look at it themselves; one that ends in ``/`` stands for all below it.
        on_end: called with each exchange when it is over.
    """

    def __init__(
        self,
        app: Application,
        *,
        settings: Settings,
        traffic: Traffic,
        unguarded: Collection[str],
        metrics: Metrics,
        on_end: Callable[[Exchange], None],
    ) -> None:
        self._app, self._settings, self._traffic = app, settings, traffic
        self._unguarded, self._metrics, self._on_end = frozenset(unguarded), metrics, on_end
        self._unguarded_folders = tuple(path for path in unguarded if path.endswith("/") and path != "/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, send, closing=self._traffic.draining)
        try:
            self._check_token(scope)
            if scope["method"] in WITHOUT_SLOT:
                await self._pass_on(exchange, receive)
            else:
                await self._with_slot(exchange, receive)
        except Refused as refusal:
            await refused(refusal)(scope, receive, exchange.send)
        except GoneError:
            pass
        except Exception:
            log.exception("request %s failed", exchange.id)
            if not exchange.status:
                await _failed(exchange.id)(scope, receive, exchange.send)
        finally:
            self._metrics.ended(exchange.route, exchange.status, perf_counter() - exchange.began)
            self._on_end(exchange)

    def _check_token(self, scope: Scope) -> None:
        path = scope["path"]
        if self._settings.token is None or path in self._unguarded or path.startswith(self._unguarded_folders):
            return
        scheme, _, token = Request(scope).headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not self._settings.allows(token.strip()):
            raise Refused(
                401,
                "this server wants its token; send it as 'Authorization: Bearer TOKEN'.",
                {"WWW-Authenticate": "Bearer"},
            )

    async def _with_slot(self, exchange: Exchange, receive: Receive) -> None:
        """Hold one of the places of the queue while the request is read and answered."""
        traffic = self._traffic
        if traffic.in_progress >= self._settings.queue:
            raise Refused(
                429,
                f"{self._settings.queue} requests are waiting already; come back in a second.",
                {"Retry-After": "1"},
            )
        traffic.accepted += 1
        self._metrics.in_progress.set(traffic.in_progress)
        try:
            await self._pass_on(exchange, receive)
        except GoneError:
            traffic.gone += 1
            raise
        except asyncio.CancelledError:  # the time to end is over
            traffic.lost += 1
            raise
        except BaseException:  # answered by the caller, with a refusal or a 500
            traffic.answered += 1
            raise
        else:
            traffic.answered += 1
        finally:
            self._metrics.in_progress.set(traffic.in_progress)

    async def _pass_on(self, exchange: Exchange, receive: Receive) -> None:
        body = await self._body(exchange.scope, receive)
        hung_up = asyncio.Event()
        read = False

        async def replay() -> Message:
            nonlocal read
            if not read:
                read = True
                return {"type": "http.request", "body": body, "more_body": False}
            await hung_up.wait()
            return {"type": "http.disconnect"}

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        answer = asyncio.ensure_future(self._app(exchange.scope, replay, exchange.send))
        watcher = asyncio.ensure_future(watch())
        try:
            await asyncio.wait({answer, watcher}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and not exchange.complete:  # a complete answer ends the watch, too
                hung_up.set()
                raise GoneError
            await answer
        finally:
            for task in (answer, watcher):
                task.cancel()
            await asyncio.gather(answer, watcher, return_exceptions=True)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        try:
            return await asyncio.wait_for(self._read(scope, receive), self._settings.upload_seconds)
        except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
            raise Refused(
                408,
                f"the request did not arrive within {self._settings.upload_seconds:g} seconds; send it faster.",
                {"Connection": "close"},
            ) from None

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        limit = self._settings.max_bytes
        too_large = Refused(413, f"the request has more than {limit:,} bytes; send a smaller picture.")
        length = Request(scope).headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > limit:
            raise too_large
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise GoneError
            body += message.get("body", b"")
            if len(body) > limit:
                raise too_large
            if not message.get("more_body"):
                return bytes(body)


def refused(refusal: Refused) -> Response:
    """The answer to a refused request: ``{"error": sentence}``."""
    return JSONResponse({"error": refusal.sentence}, refusal.status, refusal.headers)


def _failed(request_id: str) -> Response:
    return JSONResponse({"error": f"the server failed; its log has request {request_id}."}, 500)
