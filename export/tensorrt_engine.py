"""TensorRT engines from the ONNX file: one builder for ``tensorrt`` and ``tensorrt_rtx``, which share their API.

Networks are strongly typed: precision is decided in the ONNX graph, never by the builder. TensorRT-RTX compiles ahead
of time for a list of GPU architectures on a machine without any GPU; TensorRT compiles for the GPU it finds.
"""

import importlib
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from detheads.export.names import INPUT_NAME
from detheads.foundation.atomic import write_bytes
from detheads.foundation.errors import UserError

AMPERE = 80
"""Oldest GPU architecture built for by default (compute capability 8.0)."""


@dataclass(frozen=True)
class BatchProfile:
    """Smallest, best and largest batch size an engine takes."""

    smallest: int = 1
    best: int = 4
    largest: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.best <= self.largest <= 1024:
            raise UserError(f"the batch sizes {self} are not in rising order from 1 to 1024; write them like 1:4:8.")

    def __str__(self) -> str:
        return f"{self.smallest}:{self.best}:{self.largest}"

    @classmethod
    def parse(cls, text: str) -> "BatchProfile":
        """``"1:4:8"`` -> smallest 1, best 4, largest 8; a single number stands for all three.

        Raises:
            UserError: for any other text.
        """
        match = re.fullmatch(r"(\d{1,4})(?::(\d{1,4}):(\d{1,4}))?", text.strip())
        if match is None:
            raise UserError(f"--batch takes smallest:best:largest such as 1:4:8, not {text!r}.")
        first = int(match[1])
        return cls(first, int(match[2] or first), int(match[3] or first))


@dataclass(frozen=True)
class Library:
    """The TensorRT library in use.

    Attributes:
        module: the imported package.
        remark: why an installed library was passed over; empty when none was.
    """

    module: Any
    name: str
    version: str
    remark: str


@dataclass(frozen=True)
class EngineBuild:
    """A written engine. It was built, not executed."""

    path: Path
    bytes: int
    seconds: float
    builder: str
    batch: BatchProfile
    compute_capabilities: list[str]
    layer_types: dict[str, int]


class _Log(Protocol):
    errors: list[str]


def find_library() -> Library:
    """``tensorrt`` where it can build on this machine (it needs a GPU), else ``tensorrt_rtx``.

    Raises:
        UserError: when neither can be used, with both reasons.
    """
    missing: list[str] = []
    unusable: list[str] = []
    for name in ("tensorrt", "tensorrt_rtx"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            missing.append(f"{name} is not installed")
            continue
        except OSError as error:  # the package is there, its shared libraries are not
            unusable.append(f"{name} cannot be loaded ({error})")
            continue
        log = _new_log(module)
        try:
            module.Builder(log)
        except (TypeError, RuntimeError) as error:  # pybind raises when the library's factory gives nothing
            unusable.append(f"{name} cannot build here ({next(iter(log.errors), str(error))})")
            continue
        return Library(module, name, str(module.__version__), "; ".join(unusable))
    reasons = [*unusable, *missing]
    raise UserError(
        f"no TensorRT engine can be built: {'; '.join(reasons)}; install detheads[export] or detheads[tensorrt], "
        "or pass --onnx-only."
    )


def default_capabilities(library: Library) -> list[str]:
    """Ampere and every newer GPU architecture the library can compile for, like ``["SM80", "SM86"]``.

    Empty for a library that compiles for the GPU it runs on.
    """
    return [name for name, number in _known_capabilities(library).items() if number >= AMPERE]


def build_engine(
    onnx_path: Path,
    engine_path: Path,
    *,
    batch: BatchProfile | None = None,
    capabilities: Sequence[str] | None = None,
    library: Library | None = None,
) -> EngineBuild:
    """Parse ``onnx_path`` and write a serialised engine to ``engine_path``.

    Args:
        batch: batch sizes of the profile; the default when None.
        capabilities: GPU architectures such as ``SM89``; ``default_capabilities`` when None.
        library: the result of :func:`find_library`, looked for when None.

    Raises:
        UserError: when the parser refuses the graph (its words and the node's name), an architecture is unknown, or
            the builder fails.
    """
    batch = batch or BatchProfile()
    library = library or find_library()
    trt = library.module
    log = _new_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(_strongly_typed(trt))
    _parse(trt, network, log, onnx_path)
    config = builder.create_builder_config()
    wanted = list(default_capabilities(library) if capabilities is None else capabilities)
    _set_capabilities(library, config, wanted)
    config.add_optimization_profile(_profile(builder, network, batch))
    started = time.perf_counter()
    serialised = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - started
    if serialised is None:
        raise UserError(f"{library.name} could not build {onnx_path.name}: {_said(log)}.")
    write_bytes(engine_path, bytes(serialised))
    return EngineBuild(
        engine_path,
        engine_path.stat().st_size,
        seconds,
        f"{library.name} {library.version}",
        batch,
        wanted or ["the GPU of the building machine"],
        _layer_types(network),
    )


def _new_log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[name-defined,misc]  # the base class is known at run time only
        """Keeps errors instead of printing, so that they can be part of one sentence."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Log()


def _strongly_typed(trt: Any) -> int:
    """The creation flag; gone from versions in which every network is strongly typed."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(trt: Any, network: Any, log: _Log, path: Path) -> None:
    parser = trt.OnnxParser(network, log)
    if parser.parse(path.read_bytes()):  # not by its name, which may not be UTF-8
        return
    complaints = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        node = f"node {error.node_name()!r} ({error.node_operator()}): " if error.node_operator() else ""
        complaints.append(node + " ".join(error.desc().split()))
    raise UserError(f"TensorRT cannot read {path.name}: {'; '.join(complaints) or _said(log)}.")


def _known_capabilities(library: Library) -> dict[str, int]:
    enum = getattr(library.module, "ComputeCapability", None)
    members = getattr(enum, "__members__", {})
    found = {name: int(name[2:]) for name in members if re.fullmatch(r"SM\d+", name)}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _set_capabilities(library: Library, config: Any, wanted: list[str]) -> None:
    known = _known_capabilities(library)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        offered = ", ".join(known) or "only the GPU of this machine"
        raise UserError(
            f"{library.name} {library.version} cannot compile for {', '.join(unknown)}; it offers {offered}."
        )
    if wanted:
        config.num_compute_capabilities = len(wanted)
        for index, name in enumerate(wanted):
            if not config.set_compute_capability(getattr(library.module.ComputeCapability, name), index):
                raise UserError(f"{library.name} {library.version} refused the GPU architecture {name}.")


def _profile(builder: Any, network: Any, batch: BatchProfile) -> Any:
    shape = tuple(network.get_input(0).shape)[1:]
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT_NAME, (batch.smallest, *shape), (batch.best, *shape), (batch.largest, *shape))
    return profile


def _layer_types(network: Any) -> dict[str, int]:
    layers = (network.get_layer(index) for index in range(network.num_layers))
    counts = Counter(layer.get_output(port).dtype.name for layer in layers for port in range(layer.num_outputs))
    return dict(counts.most_common())


def _said(log: _Log) -> str:
    return "; ".join(log.errors).rstrip(".") or "it gave no reason"
