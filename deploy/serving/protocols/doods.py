"""DOODS, the detection service of Home Assistant's integration of that name: ``GET /detectors`` and ``POST /detect``.

Boxes are 0..1 of the sent picture, confidences 0..100, as :pypi:`pydoods` and its integration read them.
"""

import base64
import binascii
from collections.abc import Iterator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header
from pydantic import BaseModel, Field, model_validator

from detheads.deploy.detector import Detections
from detheads.deploy.serving.models import Models, Refused
from detheads.deploy.serving.protocols.refusing import refusing
from detheads.deploy.serving.settings import Settings

OPEN: Final = frozenset({"/detectors", "/detect"})
"""The token comes in a header of its own, which is read here."""
DEFAULT: Final = "default"
"""What a client calls the detector when it names none: the first bundle, unless one has this very name."""

Share = Annotated[float, Field(ge=0, le=1)]
Wanted = dict[str, Annotated[float, Field(ge=0, le=100)]]
"""Lowest confidence by class; ``*`` stands for all others."""


class Region(BaseModel):
    """Part of the picture with rules of its own; ``covers``: boxes must lie inside, else they need to touch it."""

    id: str | None = None
    top: Share = 0.0
    left: Share = 0.0
    bottom: Share = 1.0
    right: Share = 1.0
    detect: Wanted = {}
    covers: bool = False


class DetectRequest(BaseModel):
    id: str | None = None
    detector_name: str | None = DEFAULT
    data: str = Field(description="The picture's file in base64.")
    detect: Wanted = {}
    regions: list[Region] = Field(default=[], max_length=64)
    preprocess: list[str] = []
    image: Any = Field(default=None, description="Drawn pictures are not sent back.")

    @model_validator(mode="before")
    @classmethod
    def _null_is_none(cls, document: Any) -> Any:
        return (
            {key: value for key, value in document.items() if value is not None}
            if isinstance(document, dict)
            else document
        )


class Detector(BaseModel):
    name: str
    type: str
    model: str
    labels: list[str]
    width: int
    height: int


class Detectors(BaseModel):
    detectors: list[Detector]


class Detection(BaseModel):
    region_id: str | None = None
    top: float
    left: float
    bottom: float
    right: float
    label: str
    confidence: float


class DetectResponse(BaseModel):
    id: str | None = None
    detections: list[Detection]


Key = Annotated[str, Header(alias="doods-auth-key", description="The server's token, where it has one.")]


def router(models: Models, settings: Settings) -> APIRouter:
    routes = APIRouter(tags=["DOODS"], route_class=refusing(lambda sentence: {"error": sentence}))

    def check(key: str) -> None:
        if not settings.allows(key):
            raise Refused(401, "this server wants its token; send it in the header 'doods-auth-key' (auth_key).")

    @routes.get("/detectors")
    async def detectors(key: Key = "") -> Detectors:
        """The bundles. Pictures of any size and shape are taken: width and height are 0, as DOODS says that."""
        check(key)
        return Detectors(
            detectors=[
                Detector(
                    name=served.name,
                    type="detheads",
                    model=served.detector.manifest.name,
                    labels=list(served.detector.class_names),
                    width=0,
                    height=0,
                )
                for served in models
            ]
        )

    @routes.post("/detect", response_model_exclude_none=True)
    async def detect(asked: DetectRequest, key: Key = "") -> DetectResponse:
        """Objects in a picture that pass ``detect`` or a region; without both, each class's best score decides."""
        check(key)
        if asked.preprocess or asked.image:
            raise Refused(
                400, "pictures are neither changed before detection nor sent back; leave preprocess and image out."
            )
        name = asked.detector_name or DEFAULT
        served = models.get(None if name == DEFAULT and DEFAULT not in models.names else name)
        answer = await served.answer(_content(asked.data))
        found = answer.found
        if not asked.detect and not asked.regions:
            found, asked = found.above(served.detector.draw_scores), asked.model_copy(update={"detect": {"*": 0.0}})
        detections = _detections(found, answer.width, answer.height)
        return DetectResponse(id=asked.id, detections=[passed for one in detections for passed in _passed(one, asked)])

    return routes


def _content(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):  # not ASCII
        raise Refused(400, "data is not base64; send the picture's file, addresses are not fetched.") from None


def _detections(found: Detections, width: int, height: int) -> Iterator[Detection]:
    for name, score, (left, top, right, bottom) in zip(
        found.names, found.scores.tolist(), found.boxes.tolist(), strict=True
    ):
        yield Detection(
            top=top / height,
            left=left / width,
            bottom=bottom / height,
            right=right / width,
            label=name,
            confidence=100 * score,
        )


def _passed(one: Detection, asked: DetectRequest) -> Iterator[Detection]:
    """The detection, once, when the rules for the whole picture or for one of the regions let it pass."""
    if _enough(one, asked.detect):
        yield one
        return
    for region in asked.regions:
        if _lies_in(one, region) and _enough(one, region.detect):
            yield one.model_copy(update={"region_id": region.id})
            return


def _enough(one: Detection, wanted: Wanted) -> bool:
    return one.confidence >= wanted.get(one.label, wanted.get("*", float("inf")))


def _lies_in(one: Detection, region: Region) -> bool:
    if region.covers:
        return (
            region.top <= one.top
            and region.left <= one.left
            and region.bottom >= one.bottom
            and region.right >= one.right
        )
    return (
        one.top <= region.bottom and one.left <= region.right and one.bottom >= region.top and one.right >= region.left
    )
