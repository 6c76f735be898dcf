"""What a bundle folder holds, written piece by piece: graph, engines, manifest, proof."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from detheads import __version__
from detheads.deploy.runtime import installed_builds
from detheads.export.graph import DetectorGraph
from detheads.export.onnx_export import export_onnx
from detheads.export.report import VerificationReport
from detheads.export.source import Trained
from detheads.export.tensorrt_engine import BatchProfile, Library, build_engine, find_library
from detheads.foundation import atomic
from detheads.foundation.bundle import (
    BackboneEntry,
    BundleManifest,
    ClassEntry,
    EngineEntry,
    HeadEntry,
    InputSpec,
    OnnxEntry,
    Thresholds,
    graph_metadata,
    onnx_file,
    write_manifest,
)
from detheads.report.files import MARKDOWN_NAME, write_texts

ONNX_NAME = "model.onnx"
ENGINE_FOLDER = "engines"
PRECISION: Final = "fp32"


def write_graph(folder: Path, name: str, trained: Trained, thresholds: Thresholds) -> BundleManifest:
    """Write ``model.onnx`` and ``bundle.json`` of a trained model into ``folder``.

    Raises:
        UserError: when the model cannot be exported (see :func:`export_onnx`).
    """
    checkpoint, spec = trained.checkpoint, trained.backbone.spec
    classes = [ClassEntry(id=category.id, name=category.name) for category in checkpoint.categories]
    input_spec = InputSpec(height=checkpoint.feature_spec.height, width=checkpoint.feature_spec.width)
    backbone = BackboneEntry(
        name=spec.name, timm_name=spec.timm_name, licence=spec.licence, weights_sha256=trained.backbone.weights_sha256
    )
    head = HeadEntry(
        name=checkpoint.head_name,
        config=checkpoint.head_config,
        parameters=sum(parameter.numel() for parameter in trained.head.parameters()),
    )
    exported = export_onnx(
        DetectorGraph(trained.backbone, trained.head, checkpoint.feature_spec, thresholds),
        folder / ONNX_NAME,
        {
            **graph_metadata(classes, input_spec, thresholds, backbone, head),
            "detheads.version": __version__,
            "detheads.precision": PRECISION,
        },
    )
    manifest = BundleManifest(
        name=name,
        classes=classes,
        input=input_spec,
        thresholds=thresholds,
        backbone=backbone,
        head=head,
        precision=PRECISION,
        hashes={
            "checkpoint": checkpoint.checkpoint_sha256,
            "cache": checkpoint.cache_sha256,
            "dataset": checkpoint.dataset_sha256,
            **({"backbone_file": own} if (own := checkpoint.backbone_file_sha256) else {}),
        },
        tools=_tool_versions(),
        onnx=OnnxEntry(
            file=ONNX_NAME,
            sha256=atomic.sha256_of(exported.path),
            opset=exported.opset,
            bytes=exported.bytes,
            parity=exported.parity,
        ),
        engines=[],
    )
    write_manifest(folder, manifest)
    return manifest


def add_engine(
    folder: Path, manifest: BundleManifest, batch: BatchProfile, library: Library | None = None
) -> BundleManifest:
    """Build a TensorRT engine from the bundle's graph and list it in the manifest.

    Raises:
        UserError: when no library is usable or it refuses the graph (see :func:`build_engine`).
    """
    library = library or find_library()
    name = f"{ENGINE_FOLDER}/{Path(manifest.onnx.file).stem}.{manifest.precision}.{library.name}.engine"
    built = build_engine(onnx_file(folder, manifest), folder / name, batch=batch, library=library)
    entry = EngineEntry(
        file=name,
        sha256=atomic.sha256_of(built.path),
        bytes=built.bytes,
        builder=built.builder,
        batch=(batch.smallest, batch.best, batch.largest),
        compute_capabilities=built.compute_capabilities,
        build_seconds=round(built.seconds, 3),
        layer_types=built.layer_types,
        status="built, not executed",
    )
    manifest = manifest.model_copy(update={"engines": [*manifest.engines, entry]})
    write_manifest(folder, manifest)
    return manifest


def store_proof(folder: Path, manifest: BundleManifest, report: VerificationReport) -> BundleManifest:
    """Write the report into the bundle, and into the manifest its short form and best scores, where it holds."""
    write_report(folder, report)
    update: dict[str, Any] = {"verification": report.summary()}
    flattering = report.training_note and manifest.best_scores is not None
    if report.passed and report.best_scores and not flattering:
        update |= {"best_scores": dict(report.best_scores), "best_scores_rule": report.best_scores_rule}
    manifest = manifest.model_copy(update=update)
    write_manifest(folder, manifest)
    return manifest


def write_report(folder: Path, report: VerificationReport) -> Path:
    """Write ``report.json`` and ``report.md`` into ``folder``; returns the Markdown file's path."""
    return write_texts(folder, report.to_dict(), report.to_markdown())


def write_unverified(folder: Path, name: str, remarks: Sequence[str]) -> None:
    """Write the ``report.md`` of a bundle that was not compared with anything."""
    lines = [f"# {name}: unverified", "", "Nobody compared this bundle with the model it was made from.", ""]
    atomic.write_text(folder / MARKDOWN_NAME, "\n".join([*lines, *(f"- Note: {remark}" for remark in remarks), ""]))


def _tool_versions() -> dict[str, str]:
    found = {"detheads": __version__, **installed_builds()}
    for tool in ("torch", "torchvision", "timm", "onnx", "onnxscript"):
        try:
            found[tool] = version(tool)
        except PackageNotFoundError:
            continue
    return found
