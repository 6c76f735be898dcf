"""What ``bundle.json`` says: what the graph expects, what it is made of, what was proven of it.

Torch-free: ``export`` writes it, ``deploy`` reads it.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from detheads.foundation.entry import Entry
from detheads.foundation.errors import UserError, suggest
from detheads.foundation.field_statistics import FieldStatistics

SCHEMA_VERSION: Final = 3
ONLY_HEAD: Final = "head"
"""Name of the head of a bundle that has no other one."""
HEAD_NAME: Final = "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
Precision = Literal["fp32", "fp16", "bf16", "int8", "mixed"]
"""What the dense part of a graph computes in; suppression is always FP32."""


class ClassEntry(Entry):
    """A class: position in the list = label of the graph; ``id`` = category id in COCO results."""

    id: int
    name: str


class InputSpec(Entry):
    """The graph's input ``images``: uint8 ``[B, 3, height, width]``, RGB, letterboxed; normalisation is inside."""

    height: int = Field(ge=8, le=8192)
    width: int = Field(ge=8, le=8192)
    layout: Literal["NCHW"] = "NCHW"
    color: Literal["RGB"] = "RGB"
    dtype: Literal["uint8"] = "uint8"
    pad_value: Literal[114] = 114
    resample: Literal["bilinear"] = "bilinear"
    placement: Literal["center"] = "center"


class Thresholds(Entry):
    """The post-processing constants: part of the graph, and what evaluation and the proof's PyTorch side use."""

    score: float = Field(default=0.05, ge=0, le=1)
    """A (box, class) pair takes part when its score is greater."""
    nms_iou: float = Field(default=0.5, ge=0, le=1)
    """A box is removed (by soft-NMS: loses score) when its IoU with a better one of its class is greater."""
    max_detections: int = Field(default=100, ge=1)
    """Of an image, at most. A table that is full may have lost some."""
    candidates: int = Field(default=1000, ge=1)
    """(box, class) pairs that take part at most, the best ones. Boxes without area inside the input take no part."""


class BackboneEntry(Entry):
    name: str
    timm_name: str
    licence: str
    weights_sha256: str | None
    """None only for random weights, which exist for tests."""


class HeadEntry(Entry):
    name: str
    """Of the head's kind, as in the registry."""
    config: dict[str, Any]
    parameters: int


class ParityEntry(Entry):
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


class OnnxEntry(Entry):
    file: str
    sha256: str
    opset: int
    bytes: int = Field(ge=1)
    external: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of each further file that the graph reads its weights from; 'detheads export' writes none."""


class EngineEntry(Entry):
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
    onnx: str | None = None
    """The graph of the bundle that it was built from, and its SHA-256; None in engines of older versions."""
    onnx_sha256: str | None = None
    layer_kinds: dict[str, dict[str, int]] = Field(default_factory=dict)
    """``layer_types`` for each kind of layer."""
    products: dict[str, int] = Field(default_factory=dict)
    """Convolutions and matrix products counted by the type they compute in."""
    executed_types: dict[str, int] | None = None
    """Layer outputs of the built engine counted by type, as its inspector told on a GPU; None: never asked."""
    platform: str | None = None
    """Where it was built, ``linux-x86_64``; an engine of ``tensorrt`` runs nowhere else."""
    gpu: str | None = None
    """Name of the GPU that it was built on; None where there was none."""
    workspace_gb: float | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    stripped: bool = False
    """Its weights were left out; the runtime takes them from the graph."""
    refittable: bool = False
    tf32: bool | None = None
    """Whether FP32 products may be computed in TF32; None in engines of older versions, which might."""


class CalibrationEntry(Entry):
    """The pictures that ranges were measured on."""

    source: str
    """Name of the dataset, folder or file."""
    split: str | None = None
    """Of a dataset."""
    seed: int
    images: dict[str, str] = Field(min_length=1)
    """SHA-256 by name: of a picture's file; of the letterboxed pixels for pictures of an array."""


class ProfileProof(Entry):
    """A host's graph on that host's pictures against PyTorch on the same. mAP in AP units, 0..1."""

    passed: bool
    sha256: str
    """Of the graph that was proven."""
    runtime: str
    batch: int = Field(ge=1)
    images: int = Field(ge=1)
    map: float | None
    map_live: float | None
    """PyTorch with the host's resize and padding."""
    map_drop: float | None
    """PyTorch minus artefact, on the same pictures."""
    map_letterboxed: float | None
    """PyTorch with the resize and padding that the head was trained with."""
    matched: float = Field(ge=0, le=1)
    """Share of detections that have a counterpart of the same class on the other side."""


class ProfileEntry(Entry):
    """A graph in the shape that one host wants, in a folder of its own."""

    name: str
    file: str
    sha256: str
    bytes: int = Field(ge=1)
    host: str
    """Who reads it."""
    preprocessing: str
    """What that host does to a picture before."""
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of each further file of the profile, such as a configuration."""
    proof: ProfileProof | None = None
    """None: never proven."""


class ArtefactProof(Entry):
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
    precision: Precision = "fp32"
    map50: float | None = None
    map75: float | None = None
    """AP at IoU 0.5 and 0.75."""
    map_drop_interval: tuple[float, float] | None = None
    """In which 95 % of the drops lie when the images are drawn anew (paired bootstrap); None: not measured."""
    worst_class: str | None = None
    """The class whose AP differs most, of those with boxes enough; None: there is one class, or it was not measured."""
    worst_class_drop: float | None = None
    milliseconds: float | None = None
    """An image took in the proof, resizing included."""


class Verification(Entry):
    """The proof's short form; ``report.json`` has all of it."""

    passed: bool
    reasons: list[str]
    """Why it did not pass; empty when it did."""
    dataset: str
    split: str
    dataset_sha256: str
    images: int = Field(ge=1)
    own_labels: bool = False
    """No picture is labelled with the head's classes, so what PyTorch finds stood for objects: mAP is agreement."""
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
    min_matched: float | None = None
    limits: dict[str, float] = Field(default_factory=dict)
    """Largest allowed differences by the figure's name, that of the mAP (``AP``) among them."""
    shortcomings: list[str] | None = None
    """Why the images do not prove the tolerance for others like them; empty when they do, None: not examined."""
    artefacts: list[ArtefactProof] = Field(min_length=1)
    date: str
    """ISO 8601, UTC."""


class BundledHead(Entry):
    """One detector of a bundle: a head, the classes it finds, what it is made of and what was proven of it."""

    name: str = Field(default=ONLY_HEAD, pattern=HEAD_NAME)
    """Which of the bundle's heads. Where there are several, its outputs are called ``NAME.boxes`` and so on."""
    head: HeadEntry
    classes: list[ClassEntry] = Field(min_length=1)
    thresholds: Thresholds
    hashes: dict[str, str | None]
    """SHA-256 of what it was made from: ``checkpoint``, ``cache``, ``dataset``."""
    parity: ParityEntry
    verification: Verification | None = None
    """None: never verified."""
    best_scores: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = None
    """Class name -> the score from which on its detections are right and complete most often; what drawing and serving
    use unless another score is asked for. Classes without objects to measure on are absent; None: never measured."""
    best_scores_rule: str = ""
    """How and on what ``best_scores`` were measured."""
    field: FieldStatistics | None = None
    """What ``--monitor`` compares with; None: never proven on pictures that the model was not trained on."""

    @model_validator(mode="after")
    def _counted_for_each_class(self) -> "BundledHead":
        if self.field is not None and len(self.field.counted_from) != len(self.classes):
            raise ValueError("field.counted_from needs one score for each class")
        return self


class BundleManifest(Entry):
    schema_version: Literal[1, 2, 3] = SCHEMA_VERSION
    """2 added ``best_scores``, training pictures, full tables and external files, all of which 1 may lack; graphs of 1
    may return boxes without area. 3 moved what belongs to a head into ``heads``, and added precision and profiles."""
    name: str
    heads: list[BundledHead] = Field(min_length=1)
    input: InputSpec
    backbone: BackboneEntry
    precision: Precision
    tools: dict[str, str]
    onnx: OnnxEntry
    engines: list[EngineEntry]
    profiles: list[ProfileEntry] = Field(default_factory=list)
    calibration: CalibrationEntry | None = None
    """None for fp32, which measures no ranges."""
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of every file of the bundle but this one, its signature and what devices proved; ``/`` between folders.
    Empty in bundles of earlier versions."""

    @model_validator(mode="before")
    @classmethod
    def _of_one_head(cls, document: Any) -> Any:
        """Schemas 1 and 2 held the only head's entries beside the bundle's own."""
        if not isinstance(document, dict) or document.get("schema_version") not in (1, 2) or "heads" in document:
            return document
        moved = BundledHead.model_fields.keys() & document.keys() - {"name"}
        head = {key: document[key] for key in moved}
        onnx = document.get("onnx")
        if isinstance(onnx, dict):
            head |= {key: value for key, value in onnx.items() if key == "parity"}
            document = document | {"onnx": {key: value for key, value in onnx.items() if key != "parity"}}
        kept = {key: value for key, value in document.items() if key not in moved}
        return kept | {"heads": [head], "schema_version": SCHEMA_VERSION}

    @model_validator(mode="after")
    def _names_differ(self) -> "BundleManifest":
        if len({head.name for head in self.heads}) < len(self.heads):
            raise ValueError("two heads have the same name")
        return self

    @property
    def first(self) -> BundledHead:
        """The head of a bundle that has one."""
        return self.heads[0]

    @property
    def classes(self) -> list[ClassEntry]:
        return self.first.classes

    @property
    def thresholds(self) -> Thresholds:
        return self.first.thresholds

    @property
    def verification(self) -> Verification | None:
        return self.first.verification

    @property
    def best_scores(self) -> dict[str, float] | None:
        return self.first.best_scores

    def head_named(self, name: str | None) -> BundledHead:
        """The head of that name; without a name the only one.

        Raises:
            UserError: when there is none, or several and no name.
        """
        names = [head.name for head in self.heads]
        if name is None and len(names) > 1:
            raise UserError(f"{self.name} has the heads {', '.join(names)}; say which with --head.")
        if name is not None and name not in names:
            raise UserError(f"{self.name} has no head {name!r}, but {', '.join(names)}.{suggest(name, names)}")
        return self.heads[0 if name is None else names.index(name)]

    def prefix(self, head: BundledHead) -> str:
        """What the names of a head's tensors in the graph begin with: nothing where it is the only one."""
        return f"{head.name}." if len(self.heads) > 1 else ""

    def with_head(self, changed: BundledHead) -> "BundleManifest":
        """The manifest with another entry for the head of that name."""
        return self.model_copy(
            update={"heads": [changed if head.name == changed.name else head for head in self.heads]}
        )

    @property
    def state(self) -> Literal["verified", "failed verification", "unverified"]:
        """What may be said of this bundle: the least of what may be said of each head."""
        states = {self.state_of(head) for head in self.heads}
        return next(state for state in ("failed verification", "unverified", "verified") if state in states)

    def state_of(self, head: BundledHead) -> Literal["verified", "failed verification", "unverified"]:
        """What may be said of one head. A proof of another graph is none."""
        if head.verification is None or head.verification.onnx_sha256 != self.onnx.sha256:
            return "unverified"
        return "verified" if head.verification.passed else "failed verification"

    def graph_metadata(self) -> dict[str, str]:
        """What the graph file must say of itself; the runtime refuses a manifest that says otherwise."""
        return graph_metadata(self.heads, self.input, self.backbone)


def graph_metadata(heads: Sequence[BundledHead], input_spec: InputSpec, backbone: BackboneEntry) -> dict[str, str]:
    """The description of an artefact that is stored inside its graph file, as string pairs."""
    said = {
        "detheads.input": json.dumps(input_spec.model_dump(mode="json"), sort_keys=True),
        "detheads.normalisation": "inside the graph",
        "detheads.backbone": backbone.name,
        "detheads.licence": backbone.licence,
    }
    for head in heads:
        prefix = f"detheads.{head.name}." if len(heads) > 1 else "detheads."
        said |= {
            f"{prefix}classes": json.dumps([[entry.id, entry.name] for entry in head.classes], ensure_ascii=False),
            f"{prefix}thresholds": json.dumps(head.thresholds.model_dump(mode="json"), sort_keys=True),
            f"{prefix}head": head.head.name,
        }
    return said
