"""The page at ``/``: a picture or the camera, and the boxes in it. Everything it needs comes from this folder."""

from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Final

from fastapi import APIRouter
from starlette.responses import Response

from detheads.deploy.serving.models import Models
from detheads.deploy.serving.settings import Settings

_TYPES: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_HEADERS: Final = {
    # From this server and nowhere else; blob: for the picture that the reader chose.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
        "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
_FILES: Final = {
    file.name: file.read_bytes()
    for file in resources.files(__name__).iterdir()
    if file.name.rpartition(".")[2] in _TYPES
}

OPEN: Final = frozenset({"/", *(f"/page/{name}" for name in _FILES)})
"""The page asks its reader for the token."""


def router(models: Models, settings: Settings) -> APIRouter:
    routes = APIRouter(include_in_schema=False)
    for name, content in _FILES.items():
        path = "/" if name == "index.html" else f"/page/{name}"
        routes.add_api_route(path, _giving(content, _TYPES[name.rpartition(".")[2]]), response_class=Response)
    return routes


def _giving(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def give() -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return give
