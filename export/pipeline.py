"""A trained run to a bundle with its proof: what the command line and the demo call."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from detheads.backbones.text import Embeddings
from detheads.deploy.engines.bundled import add_engine
from detheads.deploy.engines.library import find_library
from detheads.deploy.engines.options import EngineOptions
from detheads.evaluation.predict import default_thresholds
from detheads.export.bundle_writer import (
    store_proof,
    trace_master,
    write_graph,
    write_reports,
    write_unverified,
)
from detheads.export.conversion import Conversion, judge_of, store_conversion
from detheads.export.device_probes import ProbeChoice, write_probes
from detheads.export.explain.proof import prove
from detheads.export.precision.convert import convert
from detheads.export.profiles.profile import Request
from detheads.export.profiles.prove import with_profiles
from detheads.export.profiles.writer import add_profiles, require_profiles, unproven
from detheads.export.proof import Proof
from detheads.export.report import VerificationReport
from detheads.export.source import Which, load_head, load_several, load_trained
from detheads.export.target import require_target
from detheads.export.verify import measure, require_objects
from detheads.foundation import atomic
from detheads.foundation.bundle import engine_file, onnx_file, profile_file, read_manifest
from detheads.foundation.claims import staged
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import ONLY_HEAD, BundledHead, BundleManifest, Thresholds
from detheads.foundation.progress import Progress, silent
from detheads.foundation.text import visible
from detheads.report.files import MARKDOWN_NAME
from detheads.training.checkpoint import load_checkpoint
from detheads.training.vocabulary import Vocabulary

MOST_DETECTIONS = 1000
"""That ``max_detections`` may be: each is a step of the suppression, one after another."""

MOST_CANDIDATES = 3840
"""That ``candidates`` may be: a TopK of more is refused by TensorRT-RTX 1.7 ("exceeds the maximum value allowed")."""

REJECTED_SUFFIX = ".rejected"
"""Ending of the folder that keeps the report of an export whose proof failed."""


@dataclass(frozen=True)
class Suppression:
    """Constants of the post-processing inside the graph that are to differ from the usual ones; None: the usual one.

    Attributes:
        score: detections score more than this.
        iou: of two detections of a class that overlap more than this the better one is kept; 1 keeps all.
        max_detections: of an image, 1 to 1000.
        candidates: (box, class) pairs of an image that take part, the best ones, 1 to 3840.
    """

    score: float | None = None
    iou: float | None = None
    max_detections: int | None = None
    candidates: int | None = None

    def __post_init__(self) -> None:
        for name in ("score", "iou"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{name} is between 0 and 1, not {value}.")
        for name, most in (("max_detections", MOST_DETECTIONS), ("candidates", MOST_CANDIDATES)):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise UserError(f"{name} is from 1 to {most}, not {value}.")

    def applied(self, usual: Thresholds) -> Thresholds:
        """The usual constants with those of this request."""
        changed = {
            "score": self.score,
            "nms_iou": self.iou,
            "max_detections": self.max_detections,
            "candidates": self.candidates,
        }
        return usual.model_copy(update={name: value for name, value in changed.items() if value is not None})


@dataclass(frozen=True)
class ExportResult:
    """What an export made.

    Attributes:
        bundle: the bundle's folder; None when a proof failed and no bundle was left.
        reports: the proof of each head by its name; empty without a proof.
        report_file: Markdown report (None without a proof). ``report.json`` lies beside it.
        remarks: what the user should know, such as the licence of the backbone's weights.
    """

    bundle: Path | None
    manifest: BundleManifest
    reports: Mapping[str, VerificationReport]
    report_file: Path | None
    seconds: float
    remarks: tuple[str, ...]

    @property
    def report(self) -> VerificationReport | None:
        """The proof of the only head, else one that failed or the one of the largest difference; None without any."""
        return max(self.reports.values(), key=lambda one: (not one.passed, abs(one.worst.map_drop)), default=None)

    @property
    def passed(self) -> bool:
        """False when a proof was made and failed."""
        return all(report.passed for report in self.reports.values())

    def to_dict(self) -> dict[str, Any]:
        """JSON values; without a proof its figures are None. ``heads`` has those of each of several heads."""
        several = len(self.manifest.heads) > 1
        heads = {head.name: _of_head(head, self.reports.get(head.name)) for head in self.manifest.heads}
        return {
            "bundle": _text(self.bundle),
            "state": self.manifest.state,
            "passed": self.passed,
            "onnx": self.manifest.onnx.model_dump(mode="json"),
            "engines": [engine.model_dump(mode="json") for engine in self.manifest.engines],
            "profiles": [profile.model_dump(mode="json") for profile in self.manifest.profiles],
            "licence": self.manifest.backbone.licence,
            **({"heads": heads} if several else next(iter(heads.values()))),
            "report": _text(self.report_file),
            "remarks": list(self.remarks),
            "seconds": round(self.seconds, 1),
        }


def _of_head(head: BundledHead, report: VerificationReport | None) -> dict[str, Any]:
    about = {"thresholds": head.thresholds.model_dump(mode="json"), "best_scores": head.best_scores}
    if report is None:
        unknown = dict.fromkeys(("map_cache", "map_live", "map_onnx", "map_drop", "training_pictures"))
        return {**unknown, "reasons": [], "advice": [], **about}
    return {
        "map_cache": report.map_cache,
        "map_live": report.live.AP,
        "map_onnx": report.worst.statistics.AP,
        "map_drop": report.worst.map_drop,
        "reasons": report.reasons,
        "advice": list(report.advice),
        "training_pictures": report.training_pictures,
        **about,
    }


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def export_run(run: str | Path, output: str | Path, *, proof: Proof | None, **options: Any) -> ExportResult:
    """Make the bundle ``output`` (``NAME.detheads``) of one trained run, and prove it; see :func:`export_runs`."""
    return export_runs({ONLY_HEAD: Path(run)}, output, proofs=None if proof is None else {ONLY_HEAD: proof}, **options)


def export_runs(
    runs: Mapping[str, Path],
    output: str | Path,
    *,
    proofs: Mapping[str, Proof] | None,
    which: Which = "best",
    weights: str | Path | None = None,
    vocabulary: Vocabulary | None = None,
    tensorrt: bool = True,
    engine: EngineOptions | None = None,
    thresholds: Thresholds | None = None,
    suppression: Suppression = Suppression(),
    profiles: Sequence[str] = (),
    probes: ProbeChoice | None = None,
    conversion: Conversion | None = None,
    force: bool = False,
    on_progress: Progress = silent,
) -> ExportResult:
    """Make one bundle ``output`` (``NAME.detheads``) of trained runs whose heads share a backbone, and prove each.

    The bundle appears at ``output`` when it is complete and its proofs hold. When one fails, only the reports are
    kept, in ``NAME.rejected/``. Without proofs (None) the bundle says of itself that it is unverified.

    Args:
        runs: folder of a training run by the name of its head; a single one is called ``head``.
        proofs: what each head has to show.
        which: checkpoint of the runs.
        weights: backbone weight file, where the backbone's own source is not to be used.
        vocabulary: the classes that a single run's head is to have, where not its own.
        tensorrt: build a TensorRT engine too.
        engine: how it is built.
        thresholds: constants of the post-processing inside the graph; each head's usual ones when None.
        suppression: which of them are to be others.
        profiles: names of host profiles to make too.
        probes: which pictures the bundle carries for a device to check itself by.
        conversion: the precision of what comes before suppression; FP32 when None.
        force: replace an existing bundle.

    Raises:
        UserError: unusable run, weights, dataset or target; runs with other features than the first; a graph that
            cannot be exported or built.
    """
    started = time.perf_counter()
    output = Path(output)
    require = partial(require_target, force=force)
    require(output)
    if vocabulary is not None and len(runs) > 1:
        raise UserError(f"other classes are for one head, and there are {len(runs)} runs; export each by itself.")
    rejected = output.with_suffix(REJECTED_SUFFIX)
    for place in (output, rejected):  # before the work, as everything is that it would be lost by
        atomic.try_output(place, folder=True)
    engine, probes = engine or EngineOptions(), probes or ProbeChoice()
    library = find_library() if tensorrt else None
    if library is not None:
        engine.require_possible(library)
    with staged(output, require) as stage:
        on_progress("loading", 0, 0)
        for name, proof in (proofs or {}).items():
            require_objects(proof.dataset, load_head(runs[name], which, vocabulary), str(runs[name]))
        features = load_checkpoint(next(iter(runs.values())), which).feature_spec
        datasets = [proof.dataset for proof in (proofs or {}).values()]
        plan = (conversion or Conversion()).plan((features.height, features.width), datasets, engine=tensorrt)
        trained = load_several(
            runs, which=which, weights=None if weights is None else Path(weights), vocabulary=vocabulary
        )
        first = next(iter(trained.values()))
        require_profiles(profiles, first.checkpoint.feature_spec, len(runs))
        remarks = first.remarks + ((library.remark,) if library is not None and library.remark else ())
        constants = {
            name: suppression.applied(thresholds or default_thresholds(one.head)) for name, one in trained.items()
        }
        master = trace_master(trained, constants, on_progress)
        references = {
            name: measure(trained[name], constants[name], proof, on_progress, name)
            for name, proof in (proofs or {}).items()
        }
        judge = judge_of(stage.folder, master, plan.precision, references, on_progress)
        converted = convert(master.dense, plan, judge, on_progress)
        remarks += converted.remarks
        on_progress("writing the graph", 0, 0)
        manifest = write_graph(stage.folder, visible(output.stem), master, converted.model, plan.precision)
        manifest = store_conversion(stage.folder, manifest, plan, converted)
        if profiles:
            on_progress("host profiles", 0, 0)
            largest = engine.batch.largest
            thresholds = manifest.first.thresholds
            request = Request(first, converted.model, thresholds, largest, manifest.name, manifest.precision)
            manifest = add_profiles(stage.folder, manifest, profiles, request)
        if library is not None:
            on_progress("TensorRT engine", 0, 0)
            manifest = add_engine(stage.folder, manifest, engine, library, on_progress)
        own = proofs[manifest.first.name].dataset if proofs else None
        on_progress("probes", 0, 0)
        write_probes(stage.folder, manifest, trained, probes, own)
        reports = {}
        for name, reference in references.items():
            report = prove(stage.folder, reference, on_progress)
            reports[name] = with_profiles(report, stage.folder, reference, on_progress)
            manifest = store_proof(stage.folder, manifest, reports[name], name)
        if not reports:
            remarks += unproven(profiles)
            manifest = write_unverified(stage.folder, manifest, remarks)
        passed = all(report.passed for report in reports.values())
        if passed:
            stage.publish()
    bundle = output if passed else None
    if bundle is None:
        write_reports(rejected, manifest.name, reports)
    report_file = (bundle or rejected) / MARKDOWN_NAME if reports else None
    return ExportResult(bundle, manifest, reports, report_file, time.perf_counter() - started, remarks)


def verify_bundle(
    bundle: str | Path,
    run: str | Path,
    proof: Proof,
    *,
    which: Which = "best",
    weights: str | Path | None = None,
    embeddings: Embeddings | None = None,
    store: bool = True,
    on_progress: Progress = silent,
) -> VerificationReport:
    """Prove a head of an existing bundle against the run it was made from.

    Args:
        run: of the head that is to be proven.
        embeddings: of the classes that it got at export.
        store: write the verdict into the bundle, whatever it is (see :func:`store_verdict`).

    Raises:
        UserError: when the bundle is not what its manifest says, or was made from another checkpoint or backbone.
    """
    bundle, run = Path(bundle), Path(run)
    manifest = read_manifest(bundle)
    onnx_file(bundle, manifest)
    for engine in manifest.engines:
        engine_file(bundle, engine)
    for profile in manifest.profiles:
        profile_file(bundle, profile)
    on_progress("loading", 0, 0)
    made_from = load_checkpoint(run, which).checkpoint_sha256
    head = next((head for head in manifest.heads if head.hashes.get("checkpoint") == made_from), None)
    if head is None:
        raise UserError(
            f"{bundle} was not made from the {which} checkpoint of {run}; give the run it was exported from."
        )
    changed = head.hashes.get("vocabulary")
    vocabulary = Vocabulary(tuple(entry.name for entry in head.classes), embeddings) if changed else None
    trained = load_trained(run, which=which, weights=None if weights is None else Path(weights), vocabulary=vocabulary)
    if trained.checkpoint.vocabulary_sha256 != changed:
        raise UserError(f"{bundle} was exported with other embeddings of its classes; give their file with --text.")
    if trained.backbone.weights_sha256 != manifest.backbone.weights_sha256:
        raise UserError(f"{bundle} was made with other backbone weights than {run}; give the run it was exported from.")
    reference = measure(trained, head.thresholds, proof, on_progress, head.name)
    report = with_profiles(prove(bundle, reference, on_progress), bundle, reference, on_progress)
    if store:
        store_verdict(bundle, report)
    return report


def store_verdict(bundle: Path, report: VerificationReport) -> str | None:
    """Write a verdict into its bundle: report and manifest. Returns why that was not possible, or None."""
    try:
        store_proof(bundle, read_manifest(bundle), report, report.head)
    except OSError as error:
        return f"the verdict was not written into {bundle} ({error.strerror or error}); the bundle is as it was"
    return None
