"""What a bundle folder holds, written piece by piece: graph, engines, manifest, proof."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from detheads import __version__
from detheads.deploy.runtime import installed_builds
from detheads.export.graph import DetectorGraph
from detheads.export.onnx_export import export_onnx
from detheads.export.report import VerificationReport
from detheads.export.source import Trained
from detheads.export.tensorrt_engine import BatchProfile, Library, build_engine, find_library
from detheads.foundation import atomic
from detheads.foundation.bundle import (
    MANIFEST_NAME,
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
from detheads.foundation.errors import UserError
from detheads.report.files import MARKDOWN_NAME, write_texts

SUFFIX = ".detheads"
ONNX_NAME = "model.onnx"
ENGINE_FOLDER = "engines"
PRECISION: Final = "fp32"


def require_target(target: Path, force: bool) -> None:
    """Check before any work that a bundle may be written to ``target``.

    Raises:
        UserError: when it is a file, a folder of something else, or a bundle without ``force``; a foreign folder is
            never replaced.
    """
    if target.suffix != SUFFIX:
        raise UserError(f"a bundle's name ends in {SUFFIX}; write -o {target.name}{SUFFIX}.")
    if not target.exists():
        return
    if not target.is_dir():
        raise UserError(f"{target} is a file; choose another name.")
    if any(target.iterdir()):
        if not (target / MANIFEST_NAME).is_file():
            raise UserError(f"{target} holds something that is not a bundle and was left alone; choose another name.")
        if not force:
            raise UserError(f"{target} exists; choose another name, or replace it with --force.")


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
    """Write the report into the bundle and its short form into the manifest."""
    write_report(folder, report)
    manifest = manifest.model_copy(update={"verification": report.summary()})
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
