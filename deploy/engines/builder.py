"""Engines from an ONNX file: one builder for ``tensorrt`` 10 and 11 and for ``tensorrt_rtx``, which share their API.

Networks are strongly typed: precision is decided in the ONNX graph, never by the builder. TensorRT-RTX compiles ahead
of time for a list of GPU architectures on a machine without any GPU; TensorRT compiles for the GPU it finds.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from detheads.deploy.engines.layers import LayerTypes, read_layers
from detheads.deploy.engines.library import Library, default_capabilities, find_library, said
from detheads.deploy.engines.machine import gpu_here
from detheads.deploy.engines.options import EngineOptions
from detheads.deploy.engines.progress import watched_build
from detheads.deploy.engines.timing import attach_timings, store_timings
from detheads.foundation.atomic import write_bytes
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, silent

OWN_GPU: Final = "the GPU of the building machine"
"""Stands for an architecture that nobody could ask for."""


@dataclass(frozen=True)
class EngineBuild:
    """A written engine. It was built, not executed.

    Attributes:
        builder: library and version.
        gpu: the GPU that it was built on; None without one.
    """

    path: Path
    bytes: int
    seconds: float
    builder: str
    options: EngineOptions
    compute_capabilities: list[str]
    gpu: str | None
    layers: LayerTypes


def build_engine(
    onnx_path: Path,
    engine_path: Path,
    options: EngineOptions | None = None,
    *,
    library: Library | None = None,
    precision: str | None = None,
    on_progress: Progress = silent,
) -> EngineBuild:
    """Parse ``onnx_path`` and write a serialised engine to ``engine_path``, atomically.

    Args:
        library: the result of :func:`find_library`, looked for when None.
        precision: what the graph is said to compute in; not compared when None.

    Raises:
        UserError: when the library cannot do what is asked, its parser refuses the graph (its words, the node and the
            module it came from), the network is not of that precision, or the builder fails.
    """
    options = options or EngineOptions()
    library = library or find_library()
    options.require_possible(library)
    trt = library.module
    gpu = gpu_here()
    with library.listening() as errors:
        builder = trt.Builder(library.log)
        network = builder.create_network(_strongly_typed(trt))
        _parse(library, network, errors, onnx_path)
        layers = read_layers(network)
        wrong = layers.contradicts(precision) if precision else ""
        if wrong:
            raise UserError(f"{onnx_path.name} is said to be {precision}, but {wrong}; export it again.")
        config = builder.create_builder_config()
        wanted = list(default_capabilities(library) if options.capabilities is None else options.capabilities)
        _configure(library, config, options, wanted)
        config.add_optimization_profile(_profile(builder, network, options))
        timings, where = options.timing_cache, OWN_GPU if gpu is None else str(gpu)
        cache = None if timings is None else attach_timings(library, config, timings, where)
        started = time.perf_counter()
        serialised = watched_build(trt, builder, network, config, on_progress)
        seconds = time.perf_counter() - started
        if serialised is None:
            raise UserError(f"{library} could not build {onnx_path.name}: {_reason(errors, options, gpu is not None)}.")
        del cache  # the build needs it until here
    if timings is not None:
        store_timings(library, config, timings, where)
    write_bytes(engine_path, bytes(serialised))
    return EngineBuild(
        engine_path,
        engine_path.stat().st_size,
        seconds,
        str(library),
        options,
        wanted or [OWN_GPU if gpu is None else gpu.capability],
        None if gpu is None else gpu.name,
        layers,
    )


def _strongly_typed(trt: Any) -> int:
    """The creation flag of TensorRT 10; from 11 on every network is strongly typed, and the flag may go."""
    flag = getattr(getattr(trt, "NetworkDefinitionCreationFlag", None), "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(library: Library, network: Any, errors: list[str], path: Path) -> None:
    parser = library.module.OnnxParser(network, library.log)
    name = str(path)
    # Read here, for its name may not be UTF-8; the name is needed only where weights lie in further files beside it.
    if parser.parse(path.read_bytes(), name if name.isprintable() else None):
        return
    reason = said([_complaint(parser.get_error(index)) for index in range(parser.num_errors)] or errors)
    if "zero point" in reason:  # INT8 with a free zero is what 'export --onnx-only' writes
        reason = f"its INT8 has the form for CPUs, export it without --onnx-only ({reason})"
    raise UserError(f"{library.name} cannot read {path.name}: {reason}.")


def _complaint(error: Any) -> str:
    """What the parser says of a node. Nodes are named ``MODULE.PATH/OpType`` after the module they were traced from."""
    words = " ".join(error.desc().split())
    if not error.node_operator():
        return words
    name = error.node_name()
    module, slash, _ = name.rpartition("/")
    return f"node {name!r} ({error.node_operator()}){f' of module {module}' if slash and module else ''}: {words}"


def _configure(library: Library, config: Any, options: EngineOptions, capabilities: list[str]) -> None:
    trt = library.module
    for name in options.flags:
        config.set_flag(getattr(trt.BuilderFlag, name))
    if not options.tf32:  # on by default, and the graph decides the precision
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_gb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace_gb * 10**9))
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if hasattr(trt, "ProfilingVerbosity"):  # what the engine inspector tells on a GPU; execution is the same
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, name in enumerate(capabilities):
            if not config.set_compute_capability(getattr(trt.ComputeCapability, name), index):
                raise UserError(f"{library} refused the GPU architecture {name}; leave it out.")


def _profile(builder: Any, network: Any, options: EngineOptions) -> Any:
    """Smallest, best and largest shape of every input; its first axis is the batch."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        entry = network.get_input(index)
        rest = tuple(entry.shape)[1:]
        profile.set_shape(entry.name, *((size, *rest) for size in options.batch.sizes))
    return profile


def _reason(errors: list[str], options: EngineOptions, has_gpu: bool) -> str:
    reason = said(errors)
    if (options.strip_weights or options.refittable) and not has_gpu:
        # Seen with 1.7: "CHECK(status == CUDA_SUCCESS) failed" in graph_jit.cpp for every graph that has weights.
        return f"weights that are put back later need a GPU while the engine is built, and there is none ({reason})"
    if "within workspace limit" in reason:
        return f"a layer needs more memory than allowed; raise --workspace-gb ({reason})"
    return reason
