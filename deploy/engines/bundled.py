"""The engines of a bundle: built from its graph on the machine at hand, added or replaced in one step."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from detheads.deploy.engines.builder import EngineBuild, build_engine
from detheads.deploy.engines.library import Library, default_capabilities, find_library
from detheads.deploy.engines.machine import gpu_here, platform_name
from detheads.deploy.engines.opening import inspected
from detheads.deploy.engines.options import EngineOptions
from detheads.deploy.engines.recognition import misfit, stale
from detheads.foundation import atomic
from detheads.foundation.bundle import engine_file, onnx_file, read_manifest, write_manifest
from detheads.foundation.claims import only_process
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import BundleManifest, EngineEntry
from detheads.foundation.progress import Progress, silent

FOLDER: Final = "engines"
SUFFIX: Final = ".engine"


@dataclass(frozen=True)
class BuildResult:
    """What a request for an engine led to.

    Attributes:
        built: False where the bundle had the very engine already.
        reason: why the bundle's earlier engine of this library was not kept; empty where there was none.
        remark: why an installed library was passed over; empty when none was.
    """

    entry: EngineEntry
    built: bool
    reason: str
    remark: str


def build_into(
    bundle: Path,
    options: EngineOptions | None = None,
    *,
    library: Library | None = None,
    force: bool = False,
    on_progress: Progress = silent,
) -> BuildResult:
    """Build an engine from a bundle's own graph and list it in the manifest, in place of the library's earlier one.

    Until the manifest names the new engine, which is one step, the bundle is as it was.

    Args:
        force: build anew even where the bundle has an engine of the same options that fits this machine.

    Raises:
        UserError: when the folder is no bundle, its graph is not the one that the manifest describes, it cannot be
            written, another process works on it, or no engine can be built (see :func:`build_engine`).
    """
    options = options or EngineOptions()
    manifest = read_manifest(bundle)
    graph = onnx_file(bundle, manifest)
    library = library or find_library()
    options.require_possible(library)
    atomic.try_output(bundle / FOLDER, folder=True)
    with only_process(bundle, f"building an engine in {bundle}"):
        earlier = _earlier(manifest, library)
        reason = "" if earlier is None else _outdated(bundle, manifest, earlier, options, library, force)
        if earlier is not None and not reason:
            return BuildResult(earlier, False, "", library.remark)
        _sweep(bundle, manifest)
        name = _free_name(manifest, library)
        built = build_engine(
            graph, bundle / name, options, library=library, precision=manifest.precision, on_progress=on_progress
        )
        try:
            entry = _described(built, bundle, name, manifest, library)
            current = read_manifest(bundle)  # a build takes minutes
            if current.onnx.sha256 != manifest.onnx.sha256:
                raise UserError(f"{bundle} was exported again while the engine was built; build it again.")
            kept = [engine for engine in current.engines if earlier is None or engine.file != earlier.file]
            write_manifest(bundle, current.model_copy(update={"engines": [*kept, entry]}))
        except BaseException:
            (bundle / name).unlink(missing_ok=True)
            raise
        if earlier is not None:
            with suppress(OSError, UserError):  # what nobody names harms nobody
                atomic.inside(bundle, earlier.file).unlink()
        return BuildResult(entry, True, reason, library.remark)


def add_engine(
    folder: Path, manifest: BundleManifest, options: EngineOptions, library: Library, on_progress: Progress = silent
) -> BundleManifest:
    """Build an engine of a bundle in the making, which nobody else sees yet.

    Raises:
        UserError: when no engine can be built (see :func:`build_engine`).
    """
    name = _free_name(manifest, library)
    built = build_engine(
        onnx_file(folder, manifest),
        folder / name,
        options,
        library=library,
        precision=manifest.precision,
        on_progress=on_progress,
    )
    entry = _described(built, folder, name, manifest, library)
    manifest = manifest.model_copy(update={"engines": [*manifest.engines, entry]})
    write_manifest(folder, manifest)
    return manifest


def _described(built: EngineBuild, bundle: Path, name: str, manifest: BundleManifest, library: Library) -> EngineEntry:
    """The manifest's entry of an engine that was built from its graph."""
    options = built.options
    entry = EngineEntry(
        file=name,
        sha256=atomic.sha256_of(built.path),
        bytes=built.bytes,
        builder=built.builder,
        batch=options.batch.sizes,
        compute_capabilities=built.compute_capabilities,
        build_seconds=round(built.seconds, 3),
        layer_types=built.layers.outputs,
        layer_kinds=built.layers.kinds,
        products=built.layers.products,
        status="built, not executed",
        onnx=manifest.onnx.file,
        onnx_sha256=manifest.onnx.sha256,
        platform=platform_name(),
        gpu=built.gpu,
        workspace_gb=options.workspace_gb,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        stripped=options.strip_weights,
        refittable=options.refittable,
        tf32=options.tf32,
    )
    return entry.model_copy(update={"executed_types": inspected(bundle, manifest, entry, library)})


def _earlier(manifest: BundleManifest, library: Library) -> EngineEntry | None:
    """The bundle's engine that a new one of this library replaces: on ``tensorrt`` that of the same GPU."""
    gpu = gpu_here()
    for engine in manifest.engines:
        if engine.builder.partition(" ")[0] != library.name:
            continue
        if library.capabilities or gpu is None or engine.compute_capabilities == [gpu.capability]:
            return engine
    return None


def _outdated(
    bundle: Path, manifest: BundleManifest, entry: EngineEntry, options: EngineOptions, library: Library, force: bool
) -> str:
    """Why an engine is built anew; empty where the bundle's own is what was asked for."""
    if force:
        return "it was asked for with --force"
    try:
        path = engine_file(bundle, entry)
    except UserError as error:
        return str(error).rstrip(".")
    return stale(entry, manifest) or misfit(entry, library, gpu_here(), path) or _other_options(entry, options, library)


def _other_options(entry: EngineEntry, options: EngineOptions, library: Library) -> str:
    asked = options.capabilities
    wanted: Sequence[str] = default_capabilities(library) if asked is None else asked
    pairs = {
        "batch sizes": (entry.batch, options.batch.sizes),
        "GPUs": (set(entry.compute_capabilities), set(wanted or entry.compute_capabilities)),
        "workspace": (entry.workspace_gb, options.workspace_gb),
        "options": (
            (entry.version_compatible, entry.hardware_compatible, entry.stripped, entry.refittable, entry.tf32),
            (
                options.version_compatible,
                options.hardware_compatible,
                options.strip_weights,
                options.refittable,
                options.tf32,
            ),
        ),
    }
    other = [what for what, (has, wants) in pairs.items() if has != wants]
    return f"it was built for other {' and '.join(other)}" if other else ""


def _free_name(manifest: BundleManifest, library: Library) -> str:
    """A file name that no engine of the manifest has, so that an earlier one stays whole until it is replaced, and of
    which no proof speaks."""
    gpu = None if library.capabilities else gpu_here()
    parts = [Path(manifest.onnx.file).stem, manifest.precision, library.name]
    stem = ".".join([*parts, *([gpu.capability.lower()] if gpu else [])])
    taken = {engine.file for engine in manifest.engines}
    taken |= {one.file for head in manifest.heads if head.verification for one in head.verification.artefacts}
    names = (f"{FOLDER}/{stem}{number}{SUFFIX}" for number in ("", ".2", *(f".{n}" for n in range(3, len(taken) + 3))))
    return next(name for name in names if name not in taken)


def _sweep(bundle: Path, manifest: BundleManifest) -> None:
    """Remove engines that a killed build left behind: files under our names that the manifest does not name."""
    named = {engine.file for engine in manifest.engines}
    stem = Path(manifest.onnx.file).stem
    for path in (bundle / FOLDER).glob(f"{stem}.*{SUFFIX}"):
        if f"{FOLDER}/{path.name}" not in named and path.is_file():
            with suppress(OSError):
                path.unlink()
