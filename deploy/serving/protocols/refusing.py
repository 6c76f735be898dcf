"""Refusals in the form in which the clients of a protocol read them."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from detheads.deploy.serving.refusals import Refused
from detheads.foundation.errors import UserError


def refusing(form: Callable[[str], dict[str, Any]]) -> type[APIRoute]:
    """Routes that answer a mistake with the JSON object that ``form`` makes of a sentence."""

    class Refusing(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handle_or_refuse(request: Request) -> Response:
                try:
                    return await handle(request)
                except Refused as refused:
                    return JSONResponse(form(refused.sentence), refused.status, refused.headers)
                except UserError as error:
                    return JSONResponse(form(str(error)), 400)
                except RequestValidationError as error:
                    return JSONResponse(form(_sentence(error)), 400)
                except HTTPException as error:  # a multipart body that cannot be taken apart
                    return JSONResponse(form(str(error.detail)), error.status_code, error.headers)

            return handle_or_refuse

    return Refusing


def _sentence(error: RequestValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    return f"{where or 'the body'}: {first['msg']}."
