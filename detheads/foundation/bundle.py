"""The manifest inside a ``name.detheads/`` bundle: what the graph expects, what it is made of, what was proven.

Torch-free: ``export`` writes it, ``deploy`` reads it.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.onnx_files import external_files
from detheads.foundation.reading import read_json

MANIFEST_NAME = "bundle.json"
SCHEMA_VERSION: Final = 2
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LONGEST_POINTER = 1024
"""Bytes of a Git LFS pointer are fewer."""


Precision = Literal["fp32", "fp16", "bf16", "int8", "mixed"]
"""What the dense part of a graph computes in; suppression is always FP32."""


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
    pad_value: Literal[114] = 114
    resample: Literal["bilinear"] = "bilinear"
    placement: Literal["center"] = "center"


class Thresholds(_Strict):
    """The post-processing constants: part of the graph, and what evaluation and the proof's PyTorch side use."""

    score: float = Field(default=0.05, ge=0, le=1)
    """A (box, class) pair takes part when its score is greater."""
    nms_iou: float = Field(default=0.5, ge=0, le=1)
    """A box is removed (by soft-NMS: loses score) when its IoU with a better one of its class is greater."""
    max_detections: int = Field(default=100, ge=1)
    """Of an image, at most. A table that is full may have lost some."""
    candidates: int = Field(default=1000, ge=1)
    """(box, class) pairs that take part at most, the best ones. Boxes without area inside the input take no part."""


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


class ParityEntry(_Strict):
    """Largest absolute differences between PyTorch and ONNX Runtime on inputs and a batch size that were not traced."""

    batch: int = Field(ge=1)
    dense_boxes: float
    """Input pixels, over all ``N`` boxes before suppression."""
    relative_boxes: float
    """The same as a share of the box's longer side, or of a pixel where that is longer."""
    best_boxes: float
    """Input pixels, over the 100 boxes of best score of each image."""
    dense_scores: float
    """0..1, over all ``N x K`` scores before suppression."""
    chosen_between: float = 0.0
    """Over the numbers that the head makes its choices between, as a share of the number where that is above 1."""
    ties: int = Field(default=0, ge=0)
    """Choices between near-equal numbers that ONNX Runtime made otherwise than PyTorch, which then followed it."""


class OnnxEntry(_Strict):
    file: str
    sha256: str
    opset: int
    bytes: int = Field(ge=1)
    parity: ParityEntry
    external: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of each further file that the graph reads its weights from; 'detheads export' writes none."""


class EngineEntry(_Strict):
    file: str
    sha256: str
    bytes: int = Field(ge=1)
    builder: str
    """Library and version that built it."""
    batch: tuple[int, int, int]
    """Smallest, best and largest batch size of the profile."""
    compute_capabilities: list[str]
    build_seconds: float
    layer_types: dict[str, int]
    """Layer outputs of the parsed network counted by type: the proof of the precision."""
    status: Literal["built, not executed", "executed"]


class CalibrationEntry(_Strict):
    """The pictures that ranges were measured on."""

    source: str
    """Name of the dataset, folder or file."""
    split: str | None = None
    """Of a dataset."""
    seed: int
    images: dict[str, str] = Field(min_length=1)
    """SHA-256 by name: of a picture's file; of the letterboxed pixels for pictures of an array."""


class ArtefactProof(_Strict):
    """One artefact at one batch size against PyTorch. mAP and differences are in AP units, 0..1."""

    file: str
    runtime: str
    batch: int = Field(ge=1)
    map: float | None
    """None where no object defines one; such a proof has failed."""
    map_drop: float | None
    """PyTorch minus artefact; positive when the artefact is worse. None where one of the two is undefined."""
    matched: float = Field(ge=0, le=1)
    """Share of detections that have a counterpart of the same class on the other side."""


class Verification(_Strict):
    """The proof's short form; ``report.json`` has all of it."""

    passed: bool
    reasons: list[str]
    """Why it did not pass; empty when it did."""
    dataset: str
    split: str
    dataset_sha256: str
    images: int = Field(ge=1)
    training_pictures: int | None = Field(default=None, ge=0)
    """How many of the images the model was trained on, as far as its training cache tells; None when it is not there
    to tell. A proof on training pictures says that two programs agree, and nothing of how well they detect."""
    full_tables: int = Field(default=0, ge=0)
    """Images with ``max_detections`` detections: more may have been found than were returned."""
    onnx_sha256: str
    checkpoint_sha256: str
    map_cache: float | None
    """As trained, from the feature cache; None when the run did not record it."""
    map_live: float | None
    """PyTorch on the image files; None where no object defines one."""
    max_map_drop: float
    artefacts: list[ArtefactProof] = Field(min_length=1)
    date: str
    """ISO 8601, UTC."""


class BundleManifest(_Strict):
    schema_version: Literal[1, 2] = SCHEMA_VERSION
    """2 added ``best_scores``, training pictures, full tables and external files, all of which 1 may lack; graphs of 1
    may return boxes without area."""
    name: str
    classes: list[ClassEntry] = Field(min_length=1)
    input: InputSpec
    thresholds: Thresholds
    backbone: BackboneEntry
    head: HeadEntry
    precision: Precision
    calibration: CalibrationEntry | None = None
    """None for fp32, which measures no ranges."""
    hashes: dict[str, str | None]
    """SHA-256 of what the bundle was made from: ``checkpoint``, ``cache``, ``dataset``."""
    tools: dict[str, str]
    onnx: OnnxEntry
    engines: list[EngineEntry]
    verification: Verification | None = None
    """None: never verified."""
    best_scores: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = None
    """Class name -> the score from which on its detections are right and complete most often; what drawing and serving
    use unless another score is asked for. Classes without objects to measure on are absent; None: never measured."""
    best_scores_rule: str = ""
    """How and on what ``best_scores`` were measured."""

    @property
    def state(self) -> Literal["verified", "failed verification", "unverified"]:
        """What may be said of this bundle. A proof of another graph is none."""
        if self.verification is None or self.verification.onnx_sha256 != self.onnx.sha256:
            return "unverified"
        return "verified" if self.verification.passed else "failed verification"

    def graph_metadata(self) -> dict[str, str]:
        """What the graph file must say of itself; the runtime refuses a manifest that says otherwise."""
        return graph_metadata(self.classes, self.input, self.thresholds, self.backbone, self.head)


def graph_metadata(
    classes: list[ClassEntry], input_spec: InputSpec, thresholds: Thresholds, backbone: BackboneEntry, head: HeadEntry
) -> dict[str, str]:
    """The description of an artefact that is stored inside its graph file, as string pairs."""
    return {
        "detheads.classes": json.dumps([[entry.id, entry.name] for entry in classes], ensure_ascii=False),
        "detheads.input": json.dumps(input_spec.model_dump(mode="json"), sort_keys=True),
        "detheads.thresholds": json.dumps(thresholds.model_dump(mode="json"), sort_keys=True),
        "detheads.normalisation": "inside the graph",
        "detheads.backbone": backbone.name,
        "detheads.licence": backbone.licence,
        "detheads.head": head.name,
    }


def read_manifest(bundle: str | Path) -> BundleManifest:
    """Read and validate ``bundle/bundle.json``.

    Raises:
        UserError: when the folder is not a bundle, or the manifest is not of a schema that this version knows.
    """
    bundle = Path(bundle)
    path = bundle / MANIFEST_NAME
    if not path.is_file():
        raise UserError(_no_bundle(bundle))
    document = read_json(path)
    found = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(found, int) and found > SCHEMA_VERSION:
        raise UserError(
            f"{path} was written by a newer detheads (schema {found}, this version knows up to {SCHEMA_VERSION}); "
            "upgrade: pip install -U detheads."
        )
    try:
        return BundleManifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        raise UserError(f"{path} is not a valid bundle manifest: {where}: {first['msg']}.") from None


def _no_bundle(given: Path) -> str:
    """What was given instead of a bundle, and what to give."""
    if given.is_file():
        if (given.parent / MANIFEST_NAME).is_file():
            return f"{given} is a file of a bundle; give the folder that holds it, {given.parent}."
        if given.suffix == ".onnx":
            return f"{given} is a graph alone; the runtime needs the whole folder NAME.detheads of 'detheads export'."
        return f"{given} is a file, and a bundle is a folder NAME.detheads; unpack it first if it holds one."
    if not given.exists():
        return f"{given} does not exist; make a bundle with 'detheads export'."
    if any(given.glob("*.onnx")):
        return f"{given} has a graph but no {MANIFEST_NAME}: it was copied in part; copy the whole folder again."
    inner = sorted(path.parent for path in given.glob(f"*/{MANIFEST_NAME}"))
    advice = f"give the one inside, {inner[0]}" if len(inner) == 1 else "make one with 'detheads export'"
    return f"{given} is not a bundle: it has no {MANIFEST_NAME}; {advice}."


def onnx_file(bundle: str | Path, manifest: BundleManifest) -> Path:
    """The graph of a bundle, after it and every file it reads were compared with the manifest's digests.

    Raises:
        UserError: when a file is missing, outside the bundle, not the one the manifest describes, or not described.
    """
    bundle = Path(bundle)
    path = _checked(bundle, manifest.onnx.file, manifest.onnx.sha256, manifest.onnx.bytes)
    for name in sorted(external_files(path)):
        inside = (path.parent / name).relative_to(bundle).as_posix() if not Path(name).is_absolute() else name
        if inside not in manifest.onnx.external:
            raise UserError(
                f"{path} reads weights from {name!r}, whose digest {MANIFEST_NAME} does not hold, so that nobody would "
                "notice a change of it; export the model again."
            )
        _checked(bundle, inside, manifest.onnx.external[inside], None)
    return path


def engine_file(bundle: str | Path, entry: EngineEntry) -> Path:
    """An engine of a bundle, after its SHA-256 was compared with the manifest's.

    Raises:
        UserError: when the file is missing, outside the bundle, or not the one the manifest describes.
    """
    return _checked(Path(bundle), entry.file, entry.sha256, entry.bytes)


def _checked(bundle: Path, name: str, sha256: str, size: int | None) -> Path:
    path = atomic.inside(bundle, name, links=True)  # links may point out: the digest says what they must point at
    if not path.is_file():
        what = f"is a link to {path.readlink()}, which does not exist" if path.is_symlink() else "is missing"
        raise UserError(f"{path} {what}; copy the whole bundle again.")
    found = path.stat().st_size
    if found < LONGEST_POINTER and path.read_bytes().startswith(LFS_POINTER):
        raise UserError(f"{path} is a Git LFS pointer and not the file itself; fetch that with 'git lfs pull'.")
    if size is not None and found < size:
        raise UserError(f"{path} has {found:,} of its {size:,} bytes: it was copied in part; copy it again.")
    if atomic.sha256_of(path) != sha256:
        raise UserError(
            f"{path} is not the file that {MANIFEST_NAME} describes (SHA-256 differs); copy the bundle again, or "
            "export it again."
        )
    return path


def write_manifest(bundle: Path, manifest: BundleManifest) -> None:
    """Write ``bundle/bundle.json`` atomically."""
    atomic.write_json(bundle / MANIFEST_NAME, manifest.model_dump(mode="json"))
