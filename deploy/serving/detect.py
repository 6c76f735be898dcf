"""The server's own interface: a picture in, detections out, and what is served."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import JSONResponse

from detheads.deploy.serving.models import Models, Served
from detheads.deploy.serving.schema import AboutModels, DetectAnswer
from detheads.deploy.serving.settings import Settings
from detheads.deploy.serving.upload import read_upload

BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}
"""How the schema describes what :func:`read_upload` takes."""


def router(models: Models, settings: Settings) -> APIRouter:
    routes = APIRouter()

    @routes.post("/v1/detect", openapi_extra=BODY, response_model=None, responses={200: {"model": DetectAnswer}})
    async def detect(
        request: Request,
        model: Annotated[str | None, Query(description="Whose detections; the first model's when left out.")] = None,
        score: Annotated[float, Query(ge=0, le=1, description="Lowest score.")] = 0.0,
    ) -> JSONResponse:
        """Detections in an uploaded picture, best first: boxes are xyxy in its pixels, as a viewer shows it."""
        served = models.get(model)
        upload = await read_upload(request)
        answer = await served.answer(upload.content)
        return JSONResponse(  # as it is: FastAPI would look through each number of a dict
            {
                "model": served.name,
                "width": answer.width,
                "height": answer.height,
                **answer.found.above(score).to_dict(),
                "timing_ms": {name: round(value, 3) for name, value in answer.timing.items()},
                "batch": answer.batch,
            }
        )

    @routes.get("/v1/models", response_model=None, responses={200: {"model": AboutModels}})
    async def served_models() -> dict[str, Any]:
        """What is served: names, classes, input sizes, proofs."""
        return {"models": [_about(served) | _refused(models, served) for served in models]}

    return routes


def _about(served: Served) -> dict[str, Any]:
    manifest = served.detector.manifest
    return {
        "name": served.name,
        "bundle": manifest.name,
        "state": manifest.state,
        "sha256": manifest.onnx.sha256,
        "precision": manifest.precision,
        "runtime": served.detector.session.runtime,
        "together": served.together,
        "input": {"height": manifest.input.height, "width": manifest.input.width},
        "classes": list(served.detector.class_names),
        "draw_scores": [round(score, 6) for score in served.detector.draw_scores.tolist()],
    }


def _refused(models: Models, served: Served) -> dict[str, str]:
    """Why the folder's present bundle is not the one that is served, where that is so."""
    return {"replacement_refused": models.refused[served.name]} if served.name in models.refused else {}
