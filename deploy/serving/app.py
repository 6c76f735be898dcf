"""The server as an ASGI application: the gate, the handlers, and every interface of ``protocols/``."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from detheads import __version__
from detheads.deploy.serving import detect, field, health, page
from detheads.deploy.serving.access import write_access
from detheads.deploy.serving.gate import Gate, refused
from detheads.deploy.serving.models import Models, Refused
from detheads.deploy.serving.protocols import protocols
from detheads.deploy.serving.schema import WRONG
from detheads.deploy.serving.settings import Settings
from detheads.deploy.serving.watch import Watch
from detheads.foundation.errors import UserError


def create_app(models: Models, settings: Settings) -> FastAPI:
    """Everything that a server of these models answers.

    Handlers may raise :class:`Refused` for a request that is not carried out, and ``UserError`` for one that is wrong
    (400); both become ``{"error": sentence}``. Size, token, queue and time of a request have been checked before.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(Watch(models, settings).run())
        yield
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await models.close()

    # The pages that FastAPI makes of the schema load scripts from a network.
    app = FastAPI(
        title="detheads", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan, responses=WRONG
    )
    unguarded = set(health.OPEN)
    for module in (health, detect, field, page, *protocols()):
        app.include_router(module.router(models, settings))
        unguarded |= getattr(module, "OPEN", frozenset())
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(UserError, _wrong)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_middleware(
        Gate,
        settings=settings,
        traffic=models.traffic,
        metrics=models.metrics,
        unguarded=unguarded,
        on_end=write_access if settings.access_log else lambda exchange: None,
    )
    return app


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return refused(error)


def _wrong(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return JSONResponse({"error": f"{where}: {first['msg']}."}, 422)


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(
        {"error": f"{request.method} {request.url.path}: {error.detail}."}, error.status_code, error.headers
    )
