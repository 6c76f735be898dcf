"""What engines of a model cost to build in each precision: seconds, bytes, and the types that they compute in."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from detheads.backbones.backbone import Backbone
from detheads.bench.memory import peak_memory_mb
from detheads.deploy.engines.builder import build_engine
from detheads.deploy.engines.library import Library
from detheads.deploy.engines.options import EngineOptions
from detheads.evaluation.predict import default_thresholds
from detheads.export.graph import DetectorGraph
from detheads.export.onnx_export import write_onnx
from detheads.export.precision.calibration import Calibration
from detheads.export.precision.convert import convert
from detheads.export.precision.plan import Plan
from detheads.export.tail import with_suppression
from detheads.export.trace import trace_dense
from detheads.foundation.manifest import Precision
from detheads.foundation.progress import Progress, under
from detheads.headkit import registry

CLASSES = 80
"""As COCO has."""


@dataclass(frozen=True)
class EngineRow:
    """An engine that was built, not executed.

    Attributes:
        convert_seconds: from the traced graph to that precision.
        build_seconds: of the library's builder.
        onnx_bytes, engine_bytes: sizes of the files.
        layer_types: layer outputs of the parsed network by type.
        products: its convolutions and matrix products by the type they compute in.
        peak_memory_mb: of the process so far, in MB (10^6 bytes).
    """

    precision: str
    convert_seconds: float
    build_seconds: float
    onnx_bytes: int
    engine_bytes: int
    layer_types: dict[str, int]
    products: dict[str, int]
    peak_memory_mb: float


@dataclass(frozen=True)
class EngineBench:
    """The engines of one model.

    Attributes:
        builder: library and version.
        trace_seconds: from PyTorch to the FP32 graph.
    """

    backbone: str
    head: str
    size: tuple[int, int]
    builder: str
    batch: tuple[int, int, int]
    compute_capabilities: list[str]
    trace_seconds: float
    rows: list[EngineRow]


def bench_engines(
    backbone: Backbone,
    head: str,
    precisions: Sequence[Precision],
    options: EngineOptions,
    library: Library,
    calibration: Calibration | None,
    on_progress: Progress,
) -> EngineBench:
    """Trace a backbone with a head of random weights once, and build an engine in each precision, one after another.

    Args:
        calibration: pictures for every precision but fp32.

    Raises:
        UserError: when the model cannot be traced, a conversion lacks something, or the library refuses a graph.
    """
    torch.manual_seed(0)
    spec = backbone.feature_spec
    model = registry.build(head, spec, CLASSES).eval()
    thresholds = default_thresholds(model)
    on_progress("tracing", 0, 0)
    started = time.perf_counter()
    dense = trace_dense(DetectorGraph(backbone, model, spec))
    traced = time.perf_counter() - started
    rows, capabilities = [], list[str]()
    for precision in precisions:
        on_progress(f"{precision} graph", 0, 0)
        started = time.perf_counter()
        plan = Plan(precision, calibration, fallback=False, engine=True)
        converted = convert(dense, plan, on_progress=under(f"{precision} graph", on_progress)).model
        seconds = time.perf_counter() - started
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            write_onnx(with_suppression(converted, thresholds, spec.height, spec.width), path, {})
            del converted
            built = build_engine(
                path,
                path.with_suffix(".engine"),
                options,
                library=library,
                precision=precision,
                on_progress=under(f"{precision} engine", on_progress),
            )
            size = path.stat().st_size
        capabilities = built.compute_capabilities
        layers = built.layers
        rows.append(
            EngineRow(
                precision, seconds, built.seconds, size, built.bytes, layers.outputs, layers.products, peak_memory_mb()
            )
        )
    return EngineBench(
        backbone.spec.name,
        head,
        (spec.height, spec.width),
        str(library),
        options.batch.sizes,
        capabilities,
        traced,
        rows,
    )
