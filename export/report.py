"""The proof as a value, as JSON and as Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detheads import __version__
from detheads.evaluation.coco import NAMES, UNDEFINED, Statistics
from detheads.evaluation.scores import RULE
from detheads.export.diagnosis import LISTED, Apart
from detheads.export.matching import BEST_BOXES, Comparison, TensorDifference
from detheads.foundation.manifest import ArtefactProof, EngineEntry, Verification
from detheads.foundation.summary import training_note
from detheads.report.markdown import plain, table_lines
from detheads.report.sections import Column, Table, Value

NOT_EXECUTED = "the runtime executes model.onnx; this engine needs an NVIDIA GPU and was built, not executed"


@dataclass(frozen=True)
class ArtefactResult:
    """One artefact at one batch size. ``map_drop`` = live AP minus its AP, in AP units 0..1."""

    file: str
    runtime: str
    batch: int
    statistics: Statistics
    map_drop: float
    versus_live: Comparison
    versus_single: Comparison

    def to_dict(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "runtime": self.runtime,
            "batch": self.batch,
            "map": self.statistics.AP,
            "map_drop": self.map_drop,
            "statistics": self.statistics.to_dict(),
            "versus_live": self.versus_live.to_dict(),
            "versus_batch_1": self.versus_single.to_dict(),
        }


@dataclass(frozen=True)
class VerificationReport:
    """Everything the proof measured. mAP is AP over IoU 0.50:0.95 in 0..1."""

    bundle: str
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
    max_map_drop: float
    min_matched: float
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
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Images left out on request, and why."""
    remarks: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.reasons

    @property
    def worst(self) -> ArtefactResult:
        """The artefact and batch size furthest from PyTorch in mAP."""
        return max(self.artefacts, key=lambda artefact: abs(artefact.map_drop))

    @property
    def verdict(self) -> str:
        """One line: whether the proof holds, and what kind of pictures it stands on."""
        return "; ".join(filter(None, ("proof holds" if self.passed else "proof FAILED", self.training_note)))

    @property
    def training_note(self) -> str:
        """That these are training pictures, where they are."""
        return training_note(self.training_pictures, self.images)

    @property
    def best_scores_rule(self) -> str:
        """How and on what the best scores were measured."""
        note = f" ({self.training_note})" if self.training_note else ""
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
            training_pictures=self.training_pictures,
            full_tables=self.full_tables,
            onnx_sha256=self.onnx_sha256,
            checkpoint_sha256=self.checkpoint_sha256,
            map_cache=self.map_cache,
            map_live=self.live.require_ap(),
            max_map_drop=self.max_map_drop,
            artefacts=[
                ArtefactProof(
                    file=artefact.file,
                    runtime=artefact.runtime,
                    batch=artefact.batch,
                    map=artefact.statistics.require_ap(),
                    map_drop=artefact.map_drop,
                    matched=artefact.versus_live.share,
                )
                for artefact in self.artefacts
            ],
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
            "date": self.date,
            "dataset": {
                "name": self.dataset,
                "split": self.split,
                "sha256": self.dataset_sha256,
                "images": self.images,
                "boxes": self.boxes,
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
            "max_map_drop": self.max_map_drop,
            "min_matched": self.min_matched,
            "live": {"runtime": self.live_runtime, "statistics": self.live.to_dict()},
            "artefacts": [artefact.to_dict() for artefact in self.artefacts],
            "full_tables": self.full_tables,
            "best_scores": dict(self.best_scores),
            "best_scores_rule": self.best_scores_rule,
            "advice": list(self.advice),
            "apart": [picture.to_dict() for picture in self.apart[:LISTED]],
            "tensors": self.tensors.to_dict(),
            "odd_shapes": self.odd_shapes.to_dict(),
            "engines": [
                {**engine.model_dump(mode="json"), "reason": NOT_EXECUTED if "not" in engine.status else ""}
                for engine in self.engines
            ],
        }

    def to_markdown(self) -> str:
        """The report for a reader."""
        return "\n".join(
            [
                *self._head(),
                *self._map(),
                *self._boxes(),
                *self._apart(),
                *self._scores(),
                *self._tensors(),
                *self._engines(),
                "",
            ]
        )

    def _head(self) -> list[str]:
        low, high = self.aspect_ratios
        verdict = "**passed**" if self.passed else "**FAILED**"
        return [
            f"# Verification of {plain(self.bundle)}: {verdict}",
            "",
            *(f"- {plain(reason)}" for reason in self.reasons),
            *(f"- Likely cause: {plain(sentence)}" for sentence in self.advice[:1]),
            *(f"- {plain(sentence)}" for sentence in self.advice[1:]),
            *(f"- Note: {plain(note)}" for note in filter(None, [self.training_note])),
            *(f"- Left out: {plain(reason)}" for reason in self.skipped.values()),
            *(f"- Note: {plain(remark)}" for remark in self.remarks),
            f"- Images: {self.images} of {plain(f'{self.dataset} {self.split}')} with {self.boxes} boxes, "
            f"width / height from {low:.2f} to {high:.2f}",
            f"- PyTorch side: {self.live_runtime}, image files, batch 1",
            f"- Tolerance: |mAP difference| <= {self.max_map_drop:g}, "
            f"matched detections >= {100 * self.min_matched:g} %",
            f"- {self.date}, detheads {__version__}, graph SHA-256 `{self.onnx_sha256}`",
            "",
        ]

    def _map(self) -> list[str]:
        worst, live, cached = self.worst, self.live.require_ap(), self.map_cache
        sources = Table(
            [Column("from"), Column("mAP", ".4f"), Column("difference to the line above")],
            [
                ("feature cache, as trained", "not recorded" if cached is None else cached, ""),
                ("PyTorch on the image files", live, "" if cached is None else f"{live - cached:+.4f}"),
                (f"{worst.file}, furthest of all batch sizes", worst.statistics.AP, f"{0.0 - worst.map_drop:+.6f}"),
            ],
        )
        compared = {"PyTorch": self.live} | {
            f"{each.file}, batch {each.batch}": each.statistics for each in self.artefacts
        }
        statistics = Table(
            [Column("statistic"), *(Column(title, ".4f", absent=UNDEFINED) for title in compared)],
            [[name, *(getattr(each, name) for each in compared.values())] for name in NAMES],
        )
        lines = ["## mAP", "", *table_lines(sources), "", "AP over IoU 0.50:0.95 by pycocotools, in 0..1.", ""]
        return [*lines, *table_lines(statistics), ""]

    def _boxes(self) -> list[str]:
        rows = [_row(f"PyTorch, {each.file} at batch {each.batch}", each.versus_live) for each in self.artefacts]
        rows += [
            _row(f"{each.file} at batch 1, at batch {each.batch}", each.versus_single) for each in self.artefacts[1:]
        ]
        rows.append(_row("PyTorch, artefact, on strips 8:1 and 1:8 and odd sizes", self.odd_shapes))
        columns = [
            Column("compared"),
            Column("images"),
            Column("matched"),
            Column("unmatched (first, second)"),
            Column("largest box difference, px", ".3g"),
            Column("of score", ".3g"),
        ]
        lines = ["## Boxes", "", *table_lines(Table(columns, rows))]
        return [*lines, "", f"Runtime: {plain(self.artefacts[0].runtime)}.", ""]

    def _apart(self) -> list[str]:
        if not self.apart:
            return []
        lines = ["### Pictures that differ most", ""]
        lines += [f"- {plain(picture.told(self.classes))}" for picture in self.apart[:LISTED]]
        further = len(self.apart) - LISTED
        return [*lines, *([f"- and {further} more pictures"] if further > 0 else []), ""]

    def _scores(self) -> list[str]:
        if not self.best_scores:
            return []
        rows = Table([Column("class"), Column("best score", ".3f")], list(self.best_scores.items()))
        return [
            "## Best scores",
            "",
            *table_lines(rows),
            "",
            f"{plain(self.best_scores_rule[:1].upper())}{plain(self.best_scores_rule[1:])}.",
            "",
        ]

    def _tensors(self) -> list[str]:
        t = self.tensors
        return [
            "## Tensors before suppression, read inside the shipped graph",
            "",
            f"Over {t.images} images the largest differences to PyTorch are {t.boxes:.3g} px on all boxes "
            f"({t.relative_boxes:.3g} of a box's longer side), {t.best_boxes:.3g} px on the {BEST_BOXES} boxes of best "
            f"score of each image, and "
            f"{t.scores:.3g} on scores.",
            *(
                [f"Of the head's choices between near-equal numbers {t.ties} were made otherwise, by rounding alone."]
                if t.ties
                else []
            ),
            "",
        ]

    def _engines(self) -> list[str]:
        if not self.engines:
            return []
        titles = ("file", "builder", "for", "batch", "MB", "seconds", "layer outputs", "status")
        columns = [Column(title, ".1f" if title in ("MB", "seconds") else "") for title in titles]
        rows = [
            (
                engine.file,
                engine.builder,
                ", ".join(engine.compute_capabilities),
                ":".join(map(str, engine.batch)),
                engine.bytes / 1e6,
                engine.build_seconds,
                ", ".join(f"{count} {name}" for name, count in engine.layer_types.items()),
                engine.status,
            )
            for engine in self.engines
        ]
        return ["## Engines", "", *table_lines(Table(columns, rows)), "", f"Not executed: {NOT_EXECUTED}."]


def _row(what: str, comparison: Comparison) -> Sequence[Value]:
    return (
        what,
        comparison.images,
        f"{100 * comparison.share:.2f} %",
        f"{comparison.only_first}, {comparison.only_second}",
        comparison.box_difference,
        comparison.score_difference,
    )
