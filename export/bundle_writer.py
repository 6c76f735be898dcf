"""What a bundle folder holds, written piece by piece: graph, manifest, proof."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import onnx

from detheads import __version__
from detheads.deploy.runtime import installed_builds
from detheads.export.graph import DetectorGraph
from detheads.export.model_card import CARD_NAME, write_card
from detheads.export.names import prefix_of
from detheads.export.onnx_export import check_parity, write_onnx
from detheads.export.report import VerificationReport
from detheads.export.report_document import report_markdown, report_page
from detheads.export.source import Trained
from detheads.export.tail import with_suppression
from detheads.export.trace import opset_of, trace_dense
from detheads.export.ways import executed
from detheads.foundation import atomic
from detheads.foundation.bundle import write_manifest
from detheads.foundation.manifest import (
    ONLY_HEAD,
    BackboneEntry,
    BundledHead,
    BundleManifest,
    ClassEntry,
    HeadEntry,
    InputSpec,
    OnnxEntry,
    ParityEntry,
    Precision,
    Thresholds,
    graph_metadata,
)
from detheads.foundation.progress import Progress, silent
from detheads.report.files import JSON_NAME, MARKDOWN_NAME, write_texts
from detheads.report.markdown import plain

ONNX_NAME: Final = "model.onnx"
PAGE_NAME: Final = "report.html"
REPORT_FOLDER: Final = "reports"
"""Holds the proof of each head of a bundle that has several."""


@dataclass(frozen=True)
class Master:
    """What every artefact of a bundle is made from.

    Attributes:
        trained: each head by its name, with the backbone that all share.
        dense: the FP32 graph up to suppression, equal to PyTorch.
        heads: what the manifest says of each head, before any proof.
    """

    trained: Mapping[str, Trained]
    dense: onnx.ModelProto
    heads: list[BundledHead]


def trace_master(
    trained: Mapping[str, Trained], thresholds: Mapping[str, Thresholds], on_progress: Progress = silent
) -> Master:
    """Trace trained heads with the backbone that they share, and compare the graph with PyTorch.

    Raises:
        UserError: when a head cannot be traced, or the graph computes something else.
    """
    first = next(iter(trained.values()))
    graph = DetectorGraph(
        first.backbone, {name: one.head for name, one in trained.items()}, first.checkpoint.feature_spec
    )
    on_progress("tracing", 0, 0)
    dense = trace_dense(graph)
    on_progress("self-check", 0, 0)
    parity = check_parity(graph, dense)
    heads = [_entry(name, one, thresholds[name], parity[name]) for name, one in trained.items()]
    return Master(trained, dense, heads)


def _entry(name: str, trained: Trained, thresholds: Thresholds, parity: ParityEntry) -> BundledHead:
    checkpoint = trained.checkpoint
    return BundledHead(
        name=name,
        head=HeadEntry(
            name=checkpoint.head_name,
            config=checkpoint.head_config,
            parameters=sum(parameter.numel() for parameter in trained.head.parameters()),
        ),
        classes=[ClassEntry(id=category.id, name=category.name) for category in checkpoint.categories],
        thresholds=thresholds,
        hashes={
            "checkpoint": checkpoint.checkpoint_sha256,
            "cache": checkpoint.cache_sha256,
            "dataset": checkpoint.dataset_sha256,
            **({"backbone_file": own} if (own := checkpoint.backbone_file_sha256) else {}),
            **({"vocabulary": changed} if (changed := checkpoint.vocabulary_sha256) else {}),
        },
        parity=parity,
    )


def write_graph(
    folder: Path, name: str, master: Master, dense: onnx.ModelProto, precision: Precision
) -> BundleManifest:
    """Write ``model.onnx`` and ``bundle.json`` into ``folder``.

    Args:
        dense: the master's graph, in the precision that is shipped; suppression is joined to it here.

    Raises:
        UserError: when the graph cannot be written (see :func:`write_onnx`).
    """
    trained = next(iter(master.trained.values()))
    checkpoint, spec = trained.checkpoint, trained.backbone.spec
    input_spec = InputSpec(height=checkpoint.feature_spec.height, width=checkpoint.feature_spec.width)
    backbone = BackboneEntry(
        name=spec.name,
        timm_name=spec.timm_name,
        licence=spec.licence,
        weights_sha256=trained.backbone.weights_sha256,
    )
    model = dense
    for head in master.heads:
        model = with_suppression(model, head.thresholds, input_spec.height, input_spec.width, prefix_of(head.name))
    path = folder / ONNX_NAME
    write_onnx(
        model,
        path,
        {
            **graph_metadata(master.heads, input_spec, backbone),
            "detheads.version": __version__,
            "detheads.precision": precision,
        },
    )
    manifest = BundleManifest(
        name=name,
        heads=master.heads,
        input=input_spec,
        backbone=backbone,
        precision=precision,
        tools=_tool_versions(),
        onnx=OnnxEntry(file=ONNX_NAME, sha256=atomic.sha256_of(path), opset=opset_of(model), bytes=path.stat().st_size),
        engines=[],
    )
    return write_manifest(folder, manifest)


def store_proof(
    folder: Path, manifest: BundleManifest, report: VerificationReport, head: str = ONLY_HEAD
) -> BundleManifest:
    """Write the report into the bundle, and into the manifest its short form and best scores, where it holds."""
    written = write_reports(folder, manifest.name, {head: report}, [each.name for each in manifest.heads])
    entry = manifest.head_named(head)
    update: dict[str, Any] = {"verification": report.summary()}
    flattering = report.caveat and entry.best_scores is not None
    if report.passed and report.best_scores and not flattering:
        update |= {"best_scores": dict(report.best_scores), "best_scores_rule": report.best_scores_rule}
    if report.passed and not report.caveat:  # of pictures known by heart, scores say nothing of the field
        update["field"] = report.seen
    manifest = manifest.with_head(entry.model_copy(update=update))
    proofs = {result.entry.name: result.summary() for result in report.profiles}
    profiles = [each.model_copy(update={"proof": proofs.get(each.name)}) for each in manifest.profiles]
    engines = executed(manifest.engines, [artefact.file for artefact in report.artefacts])
    manifest = manifest.model_copy(update={"profiles": profiles, "engines": engines})
    write_card(folder, manifest)
    return write_manifest(folder, manifest, rewritten=(*written, CARD_NAME))


def write_reports(
    folder: Path, name: str, reports: Mapping[str, VerificationReport], heads: Sequence[str] | None = None
) -> list[str]:
    """Write ``report.html``, ``report.json`` and ``report.md`` into ``folder``; of several heads below ``reports``.

    Args:
        name: of the bundle.
        heads: names of all heads of the bundle; those of ``reports`` when None.

    Returns:
        Names of the written files below ``folder``.
    """
    heads = list(reports) if heads is None else heads
    written = [MARKDOWN_NAME]
    for head, report in reports.items():
        below = "" if len(heads) == 1 else f"{REPORT_FOLDER}/{head}/"
        place = folder / below
        place.mkdir(parents=True, exist_ok=True)
        atomic.write_text(place / PAGE_NAME, report_page(report))
        write_texts(place, report.to_dict(), report_markdown(report))
        written += [below + file for file in (PAGE_NAME, JSON_NAME, MARKDOWN_NAME)]
    if len(heads) > 1:
        lines = [f"# {plain(name)}: {len(heads)} heads", "", "A proof of its own for each head:", ""]
        lines += [f"- [{head}]({REPORT_FOLDER}/{head}/{MARKDOWN_NAME})" for head in heads]
        atomic.write_text(folder / MARKDOWN_NAME, "\n".join([*lines, ""]))
    return written


def write_unverified(folder: Path, manifest: BundleManifest, remarks: Sequence[str]) -> BundleManifest:
    """Write the ``report.md`` and the card of a bundle that was not compared with anything."""
    lines = [f"# {manifest.name}: unverified", "", "Nobody compared this bundle with the model it was made from.", ""]
    atomic.write_text(folder / MARKDOWN_NAME, "\n".join([*lines, *(f"- Note: {remark}" for remark in remarks), ""]))
    write_card(folder, manifest)
    return write_manifest(folder, manifest)


def _tool_versions() -> dict[str, str]:
    found = {"detheads": __version__, **installed_builds()}
    for tool in ("torch", "torchvision", "timm", "onnx", "onnxscript"):
        try:
            found[tool] = version(tool)
        except PackageNotFoundError:
            continue
    return found
