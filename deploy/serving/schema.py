"""What the server answers, for the description of its interface at ``/openapi.json``; a fuzz test holds it to that."""

from typing import Any, Final

from pydantic import BaseModel, Field


class Problem(BaseModel):
    """A request that was not carried out, and why."""

    error: str


WRONG: Final[dict[int | str, dict[str, Any]]] = {"4XX": {"model": Problem}}
"""For requests that are wrong, too large, too many or without a token."""


class FoundObject(BaseModel):
    name: str
    label: int = Field(ge=0, description="Place of the class in the model's list.")
    score: float = Field(ge=0, le=1)
    box: list[float] = Field(min_length=4, max_length=4, description="Left, top, right, bottom; pixels of the picture.")


class Timing(BaseModel):
    """Milliseconds."""

    decode: float
    wait: float
    inference: float
    total: float


class DetectAnswer(BaseModel):
    model: str
    width: int
    height: int
    detections: list[FoundObject]
    full: bool = Field(description="The graph's table was filled to the last row; there may have been more.")
    timing_ms: Timing
    batch: int = Field(ge=1, description="Pictures that ran together.")


class InputSize(BaseModel):
    height: int
    width: int


class AboutModel(BaseModel):
    name: str
    bundle: str
    state: str
    sha256: str
    precision: str
    runtime: str
    input: InputSize
    classes: list[str]
    draw_scores: list[float]


class AboutModels(BaseModel):
    models: list[AboutModel]


class Alive(BaseModel):
    status: str


class Ready(BaseModel):
    status: str
    models: list[str]
