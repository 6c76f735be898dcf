"""A bundle's engine on a GPU of this machine: recognised, loaded, its weights put back where they were left out.

Shared by the backends of ``tensorrt`` and ``tensorrt_rtx``.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detheads.deploy.agreement import INPUT, OUTPUTS, require_agreement
from detheads.deploy.engines.cuda import Cuda
from detheads.deploy.engines.execution import EngineRunner
from detheads.deploy.engines.inspection import executed_types
from detheads.deploy.engines.library import Library, load_library, said
from detheads.deploy.engines.machine import Gpu, cuda_runtime, find_gpu, gpu_here
from detheads.deploy.engines.recognition import misfit, stale
from detheads.foundation.bundle import engine_file, onnx_file
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import BundleManifest, EngineEntry


class EngineBackend:
    """See :class:`detheads.deploy.session.Backend`.

    Attributes:
        name: library, version and GPU.
        file: the engine.
    """

    def __init__(self, runner: EngineRunner, name: str, file: str) -> None:
        self.runner, self.name, self.file = runner, name, file

    def run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """See :class:`detheads.deploy.session.Backend`."""
        return self.runner.run(images)


def open_engine(bundle: Path, manifest: BundleManifest, provider: str, threads: int | None) -> EngineBackend:
    """The bundle's engine of the library that ``provider`` names, on GPU 0 or on that of ``NAME:DEVICE``.

    Args:
        threads: of the CPU, which has no part in an engine's work: a proof gives them to all that it runs.

    Raises:
        UserError: when there is no GPU, driver or library, no engine of it, none that fits, or it cannot be loaded.
    """
    name, _, device = provider.partition(":")
    if device and not device.isdecimal():
        raise UserError(f"{provider!r} names no GPU; write {name}:0 for the first one.")
    engines = engines_of(manifest, name)
    build = f"detheads bundle build {bundle} --library {name}"
    if not engines:
        raise UserError(f"{bundle} has no engine of {name}; build one: {build}.")
    library = load_library(name)
    runtime = cuda_runtime()
    gpu = find_gpu(int(device or 0), runtime)
    graph = onnx_file(bundle, manifest)
    require_agreement(graph, manifest)
    entry, path = _fitting(bundle, manifest, engines, library, gpu, build)
    cuda = Cuda(runtime, gpu)
    engine = _load(path, entry, library, gpu, build)
    if entry.stripped:
        _put_weights_back(engine, library, graph)
    outputs = {
        manifest.prefix(head) + name: np.dtype(kind) for head in manifest.heads for name, kind in OUTPUTS.items()
    }
    runner = EngineRunner(engine, library, cuda, INPUT, (3, manifest.input.height, manifest.input.width), outputs)
    return EngineBackend(runner, f"{library} on {gpu}", entry.file)


def engines_of(manifest: BundleManifest, name: str) -> list[EngineEntry]:
    """The bundle's engines of the library of that name."""
    return [entry for entry in manifest.engines if entry.builder.partition(" ")[0] == name]


def inspected(bundle: Path, manifest: BundleManifest, entry: EngineEntry, library: Library) -> dict[str, int] | None:
    """In which types a built engine's layers compute, as its inspector tells; None where no GPU can load it.

    Raises:
        UserError: when the GPU that it was built for cannot load it.
    """
    gpu = gpu_here()
    if gpu is None or misfit(entry, library, gpu):
        return None
    engine = _load(bundle / entry.file, entry, library, gpu, f"detheads bundle build {bundle}")
    if entry.stripped:
        _put_weights_back(engine, library, onnx_file(bundle, manifest))
    return executed_types(engine, library)


def _fitting(
    bundle: Path, manifest: BundleManifest, engines: list[EngineEntry], library: Library, gpu: Gpu, build: str
) -> tuple[EngineEntry, Path]:
    """The first engine that nothing speaks against, before any is loaded."""
    reasons = []
    for entry in engines:
        path = engine_file(bundle, entry)
        reason = stale(entry, manifest) or misfit(entry, library, gpu, path)
        if not reason:
            return entry, path
        reasons.append(f"{entry.file}: {reason}")
    raise UserError(f"no engine of {bundle} runs here ({'; '.join(reasons)}); build one that does: {build}.")


def _load(path: Path, entry: EngineEntry, library: Library, gpu: Gpu, build: str) -> Any:
    trt = library.module
    content = path.read_bytes()
    with library.listening() as errors:
        runtime = trt.Runtime(library.log)
        if entry.version_compatible:  # it brings the runtime of its own release along, a program
            runtime.engine_host_code_allowed = True
        judge = getattr(runtime, "get_engine_validity", None)  # TensorRT-RTX only
        if judge is not None:
            validity, diagnostics = judge(content[: runtime.engine_header_size])
            if validity == trt.EngineValidity.INVALID:
                why = _diagnosis(trt, diagnostics) or said(errors)
                raise UserError(f"{path} does not run on {gpu}: {why}; build one that does: {build}.")
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise UserError(f"{library} cannot load {path} on {gpu}: {said(errors)}; build it anew: {build} --force.")
    return engine


def _diagnosis(trt: Any, diagnostics: int) -> str:
    """Names of the reasons that are set in a number of flags."""
    members = getattr(trt.EngineInvalidityDiagnostics, "__members__", {})
    flags = [name.lower().replace("_", " ") for name, flag in members.items() if int(diagnostics) & int(flag)]
    return ", ".join(flags)


def _put_weights_back(engine: Any, library: Library, graph: Path) -> None:
    """Fill a stripped engine with the weights of the bundle's ONNX file.

    Raises:
        UserError: when they are not those that it was built from.
    """
    trt = library.module
    with library.listening() as errors:
        refitter = trt.Refitter(engine, library.log)
        parser = trt.OnnxParserRefitter(refitter, library.log)
        if not parser.refit_from_bytes(graph.read_bytes(), str(graph)) or not refitter.refit_cuda_engine():
            complaints = [parser.get_error(index).desc() for index in range(parser.num_errors)]
            raise UserError(f"{library} cannot put the weights of {graph} back: {said([*complaints, *errors])}.")
