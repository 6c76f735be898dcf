"""Whether the server lives, whether requests should be sent to it, and what it has done."""

from fastapi import APIRouter
from starlette.responses import JSONResponse, PlainTextResponse, Response

from detheads.deploy.serving.metrics import CONTENT_TYPE
from detheads.deploy.serving.models import Models
from detheads.deploy.serving.schema import Alive, Ready
from detheads.deploy.serving.settings import Settings

OPEN = frozenset({"/healthz", "/readyz"})


def router(models: Models, settings: Settings) -> APIRouter:
    routes = APIRouter()

    @routes.get("/healthz", responses={200: {"model": Alive}})
    async def alive() -> JSONResponse:
        """The process answers. Restart it when it does not."""
        return JSONResponse({"status": "alive"})

    @routes.get("/readyz", responses={200: {"model": Ready}, 503: {"model": Alive}})
    async def ready() -> JSONResponse:
        """New requests may come: every bundle is open and warmed up, and the server was not asked to end."""
        if models.ready:
            return JSONResponse({"status": "ready", "models": models.names})
        return JSONResponse({"status": "draining"}, 503)

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters in Prometheus' text format, those of all workers together."""
        for served in models:
            if served.observer.monitor is not None:
                models.metrics.drifted(served.name, served.observer.monitor.to_dict())
        return Response(models.metrics.page(), media_type=CONTENT_TYPE)

    return routes
