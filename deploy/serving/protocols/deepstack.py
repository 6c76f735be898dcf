"""The object detection of DeepStack and CodeProject.AI, which camera software speaks: Blue Iris, Agent DVR, Home
Assistant, Frigate.

The first bundle answers at ``/v1/vision/detection``, each one under its name at ``/v1/vision/custom/NAME``. Boxes are
in pixels of the sent picture as a viewer shows it, whole numbers as DeepStack gives them, best first.
"""

from typing import Final

from fastapi import APIRouter, Request
from pydantic import BaseModel

from detheads.deploy.detector import Detections
from detheads.deploy.serving.models import Models, Refused
from detheads.deploy.serving.protocols.refusing import refusing
from detheads.deploy.serving.schema import Problem
from detheads.deploy.serving.settings import Settings
from detheads.deploy.serving.upload import read_upload

OPEN: Final = frozenset({"/v1/vision/"})
"""The token comes as the field ``api_key`` of the form, which is read here."""

FORM: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        "api_key": {"type": "string", "description": "The server's token, where it has one."},
                        "min_confidence": {
                            "type": "string",
                            "description": "Lowest confidence, 0..1; without it each class's best score in the bundle.",
                        },
                    },
                }
            }
        },
    }
}


class Prediction(BaseModel):
    label: str
    confidence: float
    x_min: int
    y_min: int
    x_max: int
    y_max: int


class Predictions(BaseModel):
    success: bool = True
    message: str
    count: int
    predictions: list[Prediction]
    inferenceMs: int  # noqa: N815 - the protocol's name
    processMs: int  # noqa: N815


class Names(BaseModel):
    success: bool = True
    models: list[str]


class Failure(BaseModel):
    success: bool = False
    error: str


def router(models: Models, settings: Settings) -> APIRouter:
    routes = APIRouter(
        prefix="/v1/vision",
        tags=["DeepStack and CodeProject.AI"],
        route_class=refusing(lambda sentence: {"success": False, "error": sentence}),
        responses={"4XX": {"model": Failure | Problem}},  # the latter before the form was looked at
    )

    def check(key: str) -> None:
        if not settings.allows(key):
            raise Refused(401, "this server wants its token; send it as the field 'api_key' of the form.")

    async def answer(name: str | None, request: Request) -> Predictions:
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise Refused(400, "send a form (multipart/form-data) with the picture as a file in its field 'image'.")
        upload = await read_upload(request)
        check(upload.fields.get("api_key", ""))
        served = models.get(name)
        lowest = _lowest(upload.fields.get("min_confidence"))
        found = await served.answer(upload.content)
        shown = found.found.above(served.detector.draw_scores if lowest is None else lowest)
        return Predictions(
            message=f"{len(shown)} objects" if len(shown) != 1 else "1 object",
            count=len(shown),
            predictions=_predictions(shown),
            inferenceMs=round(found.timing["inference"]),
            processMs=round(found.timing["total"]),
        )

    @routes.post("/detection", openapi_extra=FORM)
    async def detection(request: Request) -> Predictions:
        """Objects in a picture, by the first bundle."""
        return await answer(None, request)

    @routes.get("/custom/list")
    @routes.post("/custom/list")
    async def custom_list(request: Request) -> Names:
        """The names of all bundles."""
        check(str((await request.form()).get("api_key", "")))
        return Names(models=list(models.names))

    @routes.post("/custom/{name}", openapi_extra=FORM)
    async def custom(name: str, request: Request) -> Predictions:
        """Objects in a picture, by the bundle of that name."""
        return await answer(name, request)

    return routes


def _lowest(text: str | None) -> float | None:
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:  # nor NaN
        raise Refused(400, f"min_confidence is a number from 0 to 1, not {text[:40]!r}.")
    return number


def _predictions(found: Detections) -> list[Prediction]:
    return [
        Prediction(label=name, confidence=score, x_min=left, y_min=top, x_max=right, y_max=bottom)
        for name, score, (left, top, right, bottom) in zip(
            found.names, found.scores.tolist(), found.boxes.round().astype(int).tolist(), strict=True
        )
    ]
