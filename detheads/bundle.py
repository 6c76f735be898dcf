"""The manifest inside a ``name.detheads/`` bundle: what the graph expects, what it is made of, what was proven.

Torch-free: ``export`` writes it, ``deploy`` reads it.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from detheads import atomic
from detheads.errors import UserError

MANIFEST_NAME = "bundle.json"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassEntry(_Strict):
    """A class: position in the list = label of the graph; ``id`` = category id in COCO results."""

    id: int
    name: str


class InputSpec(_Strict):
    """The graph's input ``images``: uint8 ``[B, 3, height, width]``, RGB, letterboxed; normalisation is inside."""

    height: int = Field(ge=8, le=8192)
    width: int = Field(ge=8, le=8192)
    layout: Literal["NCHW"] = "NCHW"
    color: Literal["RGB"] = "RGB"
    dtype: Literal["uint8"] = "uint8"
    pad_value: int = Field(default=114, ge=0, le=255)
    resample: Literal["bilinear"] = "bilinear"
    placement: Literal["center"] = "center"


class Thresholds(_Strict):
    """The post-processing constants that are part of the graph."""

    score: float = Field(default=0.05, ge=0, le=1)
    nms_iou: float = Field(default=0.5, ge=0, le=1)
    max_detections: int = Field(default=100, ge=1)
    candidates: int = Field(default=1000, ge=1)


class BackboneEntry(_Strict):
    name: str
    timm_name: str
    licence: str
    weights_sha256: str | None
    """None only for random weights, which exist for tests."""


class HeadEntry(_Strict):
    name: str
    config: dict[str, Any]
    parameters: int


class OnnxEntry(_Strict):
    file: str
    sha256: str
    opset: int


class EngineEntry(_Strict):
    file: str
    sha256: str
    builder: str
    """Library and version that built it."""
    batch: tuple[int, int, int]
    """Smallest, best and largest batch size of the profile."""
    compute_capabilities: list[str]
    build_seconds: float
    status: Literal["built, not executed", "executed"]


class BundleManifest(_Strict):
    schema_version: Literal[1] = 1
    name: str
    classes: list[ClassEntry] = Field(min_length=1)
    input: InputSpec
    thresholds: Thresholds
    backbone: BackboneEntry
    head: HeadEntry
    precision: Literal["fp32"]
    hashes: dict[str, str | None]
    """SHA-256 of what the bundle was made from: ``checkpoint``, ``cache``, ``dataset``."""
    tools: dict[str, str]
    onnx: OnnxEntry
    engines: list[EngineEntry]
    verification: dict[str, Any] | None = None


def read_manifest(bundle: Path) -> BundleManifest:
    """Read and validate ``bundle/bundle.json``.

    Raises:
        UserError: when the folder is not a bundle, or the manifest is not of this schema.
    """
    path = bundle / MANIFEST_NAME
    if not path.is_file():
        raise UserError(f"{bundle} is not a bundle: it has no {MANIFEST_NAME}; make one with 'detheads export'.")
    try:
        return BundleManifest.model_validate(atomic.read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        raise UserError(f"{path} is not a valid bundle manifest: {where}: {first['msg']}.") from None


def write_manifest(bundle: Path, manifest: BundleManifest) -> None:
    """Write ``bundle/bundle.json`` atomically."""
    atomic.write_json(bundle / MANIFEST_NAME, manifest.model_dump(mode="json"))
