"""The proof as a value and as JSON; :mod:`detheads.export.report_document` makes a page and Markdown of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from detheads import __version__
from detheads.evaluation.coco import Statistics
from detheads.evaluation.compare import Interval
from detheads.evaluation.scores import RULE
from detheads.export.criteria import Criterion
from detheads.export.diagnosis import LISTED, Apart
from detheads.export.limits import Limits
from detheads.export.matching import Comparison, TensorDifference
from detheads.export.profiles.result import ProfileResult
from detheads.foundation.field_statistics import FieldStatistics
from detheads.foundation.manifest import (
    ONLY_HEAD,
    ArtefactProof,
    EngineEntry,
    Precision,
    Verification,
)
from detheads.foundation.summary import NOT_ENOUGH, caveat
from detheads.report.curves import PrecisionRecall
from detheads.report.pictures import Scene

NOT_EXECUTED = "the runtime executes model.onnx; this engine needs an NVIDIA GPU and was built, not executed"


class Explanation(Protocol):
    """Where and why two sides depart, found by looking inside; see ``verify --explain``."""

    def to_dict(self) -> dict[str, Any]: ...

    def told(self) -> Sequence[str]:
        """Sentences for a reader, the most telling first."""
        ...


@dataclass(frozen=True)
class ArtefactResult:
    """One artefact at one batch size.

    Attributes:
        map_drop: live AP minus its AP, in AP units 0..1.
        criteria: every figure that is held against PyTorch's.
        precision: that it computes in.
        bytes: size of its file.
        milliseconds: an image took in this proof, resizing included; a benchmark is ``detheads deploy bench``. None
            where arithmetic was emulated.
        further: it was run otherwise than by ONNX Runtime on the CPU, as the file is.
    """

    file: str
    runtime: str
    batch: int
    statistics: Statistics
    map_drop: float
    versus_live: Comparison
    versus_single: Comparison
    criteria: Sequence[Criterion] = ()
    precision: Precision = "fp32"
    bytes: int | None = None
    milliseconds: float | None = None
    further: bool = False

    @property
    def title(self) -> str:
        """What was run, how and at which batch size: like none else in its proof."""
        where = f" in {self.runtime}" if self.further else ""
        return f"{self.file}{where} at batch {self.batch}"

    @property
    def interval(self) -> Interval | None:
        """In which 95 % of the mAP drops lie when the images are drawn anew."""
        return next((each.interval for each in self.criteria if each.kind == "AP"), None)

    @property
    def worst_class(self) -> Criterion | None:
        """The class that differs most, of those with boxes enough where there are any; None for a single class."""
        classes = [each for each in self.criteria if each.kind == "class"]
        return max(classes, key=lambda each: (each.failed, each.enough, abs(each.drop)), default=None)

    def to_dict(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "runtime": self.runtime,
            "batch": self.batch,
            "map": self.statistics.AP,
            "map_drop": self.map_drop,
            "map_drop_interval": None if self.interval is None else list(self.interval),
            "worst_class": None if self.worst_class is None else self.worst_class.name,
            "precision": self.precision,
            "bytes": self.bytes,
            "milliseconds_per_image": self.milliseconds,
            "criteria": [criterion.to_dict() for criterion in self.criteria],
            "statistics": self.statistics.to_dict(),
            "versus_live": self.versus_live.to_dict(),
            "versus_batch_1": self.versus_single.to_dict(),
        }


@dataclass(frozen=True)
class VerificationReport:
    """Everything the proof measured. mAP is AP over IoU 0.50:0.95 in 0..1."""

    bundle: str
    head: str
    """Which of the bundle's heads."""
    date: str
    dataset: str
    split: str
    dataset_sha256: str
    images: int
    boxes: int
    aspect_ratios: tuple[float, float]
    onnx_sha256: str
    checkpoint_sha256: str
    live_runtime: str
    map_cache: float | None
    live: Statistics
    artefacts: Sequence[ArtefactResult]
    tensors: TensorDifference
    odd_shapes: Comparison
    engines: Sequence[EngineEntry]
    limits: Limits
    precision: Precision = "fp32"
    licence: str = ""
    """Of the backbone's weights."""
    own_labels: bool = False
    """The pictures have no labels of the head's classes: what PyTorch finds stands for objects."""
    training_pictures: int | None = None
    """How many of the images the model was trained on; None where the run does not tell."""
    full_tables: int = 0
    """Images with as many detections as there may be."""
    classes: Sequence[str] = ()
    apart: Sequence[Apart] = ()
    """Pictures whose detections differ, those of the dataset first and of the most differences first."""
    advice: Sequence[str] = ()
    """The likely cause of detections that do not match, and what may be done; empty while enough match."""
    best_scores: Mapping[str, float] = field(default_factory=dict)
    """By class, from PyTorch's detections."""
    seen: FieldStatistics | None = None
    """What the images look like and what PyTorch finds in them, for a monitor in the field."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Images left out on request, and why."""
    curves: Mapping[str, Sequence[PrecisionRecall]] = field(default_factory=dict)
    """Precision over recall of both sides, by what they are called."""
    scenes: Sequence[Scene] = ()
    """Pictures with what both sides found, those that differ most first."""
    conversion: Mapping[str, Any] = field(default_factory=dict)
    """How the graph came to its precision: what ``precision.json`` of the bundle says."""
    explanation: Explanation | None = None
    shortcomings: Sequence[str] = ()
    """Why these images do not prove the tolerance for others like them; empty where they do."""
    remarks: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    profiles: Sequence[ProfileResult] = ()
    """Graphs for hosts, each on that host's pictures."""

    @property
    def passed(self) -> bool:
        return not self.reasons

    @property
    def conclusive(self) -> bool:
        """Whether the images are enough to prove the tolerance of the mAP."""
        return not self.shortcomings

    @property
    def worst(self) -> ArtefactResult:
        """The artefact and batch size furthest from PyTorch in mAP."""
        return max(self.artefacts, key=lambda artefact: abs(artefact.map_drop))

    @property
    def verdict(self) -> str:
        """One line: whether the proof holds, and what kind of pictures it stands on."""
        outcome = "proof holds" if self.passed else "proof FAILED"
        doubt = "" if self.conclusive else NOT_ENOUGH
        return "; ".join(filter(None, (outcome, doubt if self.passed else "", self.caveat)))

    @property
    def head_title(self) -> str:
        """What a line about one of several heads begins with."""
        return "" if self.head == ONLY_HEAD else f"{self.head}: "

    @property
    def caveat(self) -> str:
        """Why the figures say nothing of how well the model detects; empty where they do."""
        return caveat(self.own_labels, self.training_pictures, self.images)

    @property
    def best_scores_rule(self) -> str:
        """How and on what the best scores were measured."""
        note = f" ({self.caveat})" if self.caveat else ""
        return f"{RULE}; PyTorch on {self.images} images of {self.dataset} {self.split}{note}"

    def summary(self) -> Verification:
        """The short form for the bundle's manifest."""
        return Verification(
            passed=self.passed,
            reasons=self.reasons,
            dataset=self.dataset,
            split=self.split,
            dataset_sha256=self.dataset_sha256,
            images=self.images,
            own_labels=self.own_labels,
            training_pictures=self.training_pictures,
            full_tables=self.full_tables,
            onnx_sha256=self.onnx_sha256,
            checkpoint_sha256=self.checkpoint_sha256,
            map_cache=self.map_cache,
            map_live=self.live.require_ap(),
            max_map_drop=self.limits.drops["AP"],
            min_matched=self.limits.matched,
            limits=dict(self.limits.drops),
            shortcomings=list(self.shortcomings),
            artefacts=[_short(artefact) for artefact in self.artefacts],
            date=self.date,
        )

    def to_dict(self) -> dict[str, Any]:
        """The whole report as JSON values."""
        return {
            "schema_version": 1,
            "detheads_version": __version__,
            "passed": self.passed,
            "reasons": self.reasons,
            "remarks": self.remarks,
            "bundle": self.bundle,
            "head": self.head,
            "precision": self.precision,
            "licence": self.licence,
            "date": self.date,
            "dataset": {
                "name": self.dataset,
                "split": self.split,
                "sha256": self.dataset_sha256,
                "images": self.images,
                "boxes": self.boxes,
                "own_labels": self.own_labels,
                "training_pictures": self.training_pictures,
                "skipped": dict(self.skipped),
                "aspect_ratio_range": list(self.aspect_ratios),
            },
            "onnx_sha256": self.onnx_sha256,
            "checkpoint_sha256": self.checkpoint_sha256,
            "map_cache": self.map_cache,
            "map_live": self.live.AP,
            "map_artefact": self.worst.statistics.AP,
            "map_drop": self.worst.map_drop,
            "max_map_drop": self.limits.drops["AP"],
            "min_matched": self.limits.matched,
            "limits": dict(self.limits.drops),
            "conclusive": self.conclusive,
            "shortcomings": list(self.shortcomings),
            "live": {"runtime": self.live_runtime, "statistics": self.live.to_dict()},
            "artefacts": [artefact.to_dict() for artefact in self.artefacts],
            "full_tables": self.full_tables,
            "best_scores": dict(self.best_scores),
            "best_scores_rule": self.best_scores_rule,
            "advice": list(self.advice),
            "explanation": None if self.explanation is None else self.explanation.to_dict(),
            "conversion": dict(self.conversion),
            "apart": [picture.to_dict() for picture in self.apart[:LISTED]],
            "tensors": self.tensors.to_dict(),
            "odd_shapes": self.odd_shapes.to_dict(),
            "profiles": [profile.to_dict() for profile in self.profiles],
            "engines": [
                {**engine.model_dump(mode="json"), "reason": NOT_EXECUTED if "not" in engine.status else ""}
                for engine in self.engines
            ],
        }


def _short(artefact: ArtefactResult) -> ArtefactProof:
    """One artefact at one batch size for the manifest."""
    worst = artefact.worst_class
    return ArtefactProof(
        file=artefact.file,
        runtime=artefact.runtime,
        batch=artefact.batch,
        map=artefact.statistics.require_ap(),
        map_drop=artefact.map_drop,
        matched=artefact.versus_live.share,
        map50=artefact.statistics.AP50,
        map75=artefact.statistics.AP75,
        map_drop_interval=artefact.interval,
        worst_class=None if worst is None else worst.name,
        worst_class_drop=None if worst is None else worst.drop,
        precision=artefact.precision,
        milliseconds=artefact.milliseconds,
    )
