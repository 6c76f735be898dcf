"""A trained run to a bundle with its proof: what the command line and the demo call."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detheads.data import list_splits, read_dataset
from detheads.data.dataset import Dataset
from detheads.evaluation.predict import default_thresholds
from detheads.export.bundle_writer import add_engine, require_target, staged, store_proof, write_graph, write_report
from detheads.export.live import LiveDetector
from detheads.export.report import VerificationReport
from detheads.export.source import Trained, Which, load_trained
from detheads.export.tensorrt_engine import BatchProfile, find_library
from detheads.export.verify import MAX_MAP_DROP, MIN_MATCHED, compare
from detheads.foundation import atomic
from detheads.foundation.bundle import BundleManifest, Thresholds, engine_file, onnx_file, read_manifest
from detheads.foundation.errors import UserError
from detheads.ops.devices import pick_device

Progress = Callable[[str, int, int], None]
"""Called with a step's name, what is done and what there is to do (0: not known)."""


REPORT_NAME = "report.md"
REJECTED_SUFFIX = ".rejected"
"""Ending of the folder that keeps the report of an export whose proof failed."""


def _silent(step: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Proof:
    """What a verification needs besides the run and the bundle.

    Attributes:
        data: dataset folder; ``split`` of it (None: its validation split).
        batch_sizes: batch sizes of the artefact; 1 is always among them.
        max_map_drop: largest allowed ``|live - artefact|`` in AP units, 0..1.
        min_matched: smallest allowed share of detections with a counterpart.
        map_cache: AP on the feature cache, 0..1; that of the checkpoint when None.
        device: torch device of the PyTorch side.
        threads: CPU threads of ONNX Runtime.
    """

    data: Path
    split: str | None = None
    batch_sizes: Sequence[int] = (1, 2, 5)
    max_map_drop: float = MAX_MAP_DROP
    min_matched: float = MIN_MATCHED
    map_cache: float | None = None
    device: str = "cpu"
    threads: int | None = None


@dataclass(frozen=True)
class ExportResult:
    """What an export made.

    Attributes:
        bundle: the bundle's folder; None when the proof failed and no bundle was left.
        report_file: Markdown report (None without a proof). ``report.json`` lies beside it.
        remarks: what the user should know, such as the licence of the backbone's weights.
    """

    bundle: Path | None
    manifest: BundleManifest
    report: VerificationReport | None
    report_file: Path | None
    seconds: float
    remarks: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """False when a proof was made and failed."""
        return self.report is None or self.report.passed

    def to_dict(self) -> dict[str, Any]:
        """JSON values for the command line."""
        engines = [engine.model_dump(mode="json") for engine in self.manifest.engines]
        return {
            "bundle": None if self.bundle is None else str(self.bundle),
            "state": self.manifest.state,
            "passed": self.passed,
            "onnx": self.manifest.onnx.model_dump(mode="json"),
            "engines": engines,
            "licence": self.manifest.backbone.licence,
            "map_cache": None if self.report is None else self.report.map_cache,
            "map_live": None if self.report is None else self.report.live.AP,
            "map_onnx": None if self.report is None else self.report.worst.statistics.AP,
            "map_drop": None if self.report is None else self.report.worst.map_drop,
            "reasons": [] if self.report is None else self.report.reasons,
            "report": None if self.report_file is None else str(self.report_file),
            "remarks": list(self.remarks),
            "seconds": round(self.seconds, 1),
        }


def export_run(
    run: Path,
    output: Path,
    *,
    proof: Proof | None,
    which: Which = "best",
    weights: Path | None = None,
    tensorrt: bool = True,
    batch: BatchProfile | None = None,
    thresholds: Thresholds | None = None,
    force: bool = False,
    on_progress: Progress = _silent,
) -> ExportResult:
    """Make the bundle ``output`` (``NAME.detheads``) of a trained run, and prove it.

    The bundle appears at ``output`` when it is complete and its proof holds. When the proof fails, only its report is
    kept, in ``NAME.rejected/``. Without a proof (None) the bundle says of itself that it is unverified.

    Args:
        which: checkpoint of the run.
        weights: backbone weight file, where the backbone's own source is not to be used.
        tensorrt: build a TensorRT engine too.
        batch: batch sizes of the engine.
        thresholds: constants of the post-processing inside the graph.
        force: replace an existing bundle.

    Raises:
        UserError: unusable run, weights, dataset or target; a graph that cannot be exported or built.
    """
    started = time.perf_counter()
    require_target(output, force)
    library = find_library() if tensorrt else None  # before the work, so that a missing library costs no time
    dataset = None if proof is None else _read(proof)
    on_progress("loading", 0, 0)
    trained = load_trained(run, which=which, weights=weights)
    thresholds = thresholds or default_thresholds(trained.head)
    remarks = _remarks(trained, "" if library is None else library.remark)
    report, report_file = None, None
    with staged(output, force) as stage:
        on_progress("ONNX graph", 0, 0)
        manifest = write_graph(stage.folder, output.stem, trained, thresholds)
        if library is not None:
            on_progress("TensorRT engine", 0, 0)
            manifest = add_engine(stage.folder, manifest, batch or BatchProfile(), library)
        if proof is not None and dataset is not None:
            report = _prove(stage.folder, manifest, trained, dataset, proof, on_progress)
            manifest = store_proof(stage.folder, manifest, report)
        else:
            atomic.write_text(stage.folder / REPORT_NAME, _unverified(manifest, remarks))
        stage.accepted = report is None or report.passed
    if report is not None:
        report_file = output / REPORT_NAME
        if not report.passed:
            report_file = write_report(output.with_suffix(REJECTED_SUFFIX), report)
    left = output if report is None or report.passed else None
    return ExportResult(left, manifest, report, report_file, time.perf_counter() - started, remarks)


def verify_bundle(
    bundle: Path,
    run: Path,
    proof: Proof,
    *,
    which: Which = "best",
    weights: Path | None = None,
    on_progress: Progress = _silent,
) -> VerificationReport:
    """Prove an existing bundle against the run it was made from; the report is written into the bundle.

    Raises:
        UserError: when the bundle is not what its manifest says, or was made from another checkpoint or backbone.
    """
    manifest = read_manifest(bundle)
    onnx_file(bundle, manifest)
    for engine in manifest.engines:
        engine_file(bundle, engine)
    dataset = _read(proof)
    on_progress("loading", 0, 0)
    trained = load_trained(run, which=which, weights=weights)
    if trained.checkpoint.checkpoint_sha256 != manifest.hashes.get("checkpoint"):
        raise UserError(
            f"{bundle} was not made from the {which} checkpoint of {run}; give the run it was exported from."
        )
    if trained.backbone.weights_sha256 != manifest.backbone.weights_sha256:
        raise UserError(f"{bundle} was made with other backbone weights than {run}; give the run it was exported from.")
    report = _prove(bundle, manifest, trained, dataset, proof, on_progress)
    store_proof(bundle, manifest, report)
    return report


def _prove(
    bundle: Path, manifest: BundleManifest, trained: Trained, dataset: Dataset, proof: Proof, on_progress: Progress
) -> VerificationReport:
    checkpoint = trained.checkpoint
    live = LiveDetector(
        trained.backbone, trained.head, checkpoint.feature_spec, manifest.thresholds, pick_device(proof.device)
    )
    recorded = checkpoint.metrics.get("AP")
    return compare(
        bundle,
        manifest,
        live,
        dataset,
        batch_sizes=proof.batch_sizes,
        max_map_drop=proof.max_map_drop,
        min_matched=proof.min_matched,
        map_cache=proof.map_cache if proof.map_cache is not None else recorded,
        remarks=_remarks(trained, ""),
        threads=proof.threads,
        on_progress=lambda done, total: on_progress("verifying", done, total),
    )


def _read(proof: Proof) -> Dataset:
    """The dataset of the proof; without a named split the validation split."""
    split = proof.split
    if split is None:
        splits = list_splits(proof.data)
        split = next((name for name in splits if name.startswith("val")), splits[0] if len(splits) == 1 else None)
        if split is None:
            raise UserError(f"{proof.data} has the splits {', '.join(splits)}; choose one with --split.")
    return read_dataset(proof.data, split)


def _remarks(trained: Trained, library: str) -> tuple[str, ...]:
    """What goes with the artefact wherever it goes, and what the user should know of this machine."""
    spec = trained.backbone.spec
    remarks = [f"the graph contains the weights of {spec.name}, licensed under: {spec.licence}"]
    if trained.backbone.weights_sha256 is None:
        remarks.append("the backbone has random weights: a test, not a detector")
    if library:
        remarks.append(library)
    return tuple(remarks)


def _unverified(manifest: BundleManifest, remarks: Sequence[str]) -> str:
    lines = [f"# {manifest.name}: unverified", "", "Nobody compared this bundle with the model it was made from.", ""]
    return "\n".join([*lines, *(f"- Note: {remark}" for remark in remarks), ""])
