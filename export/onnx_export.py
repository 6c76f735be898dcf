"""The FP32 master file: traced by torch, stripped, checked by onnx, compared with PyTorch in ONNX Runtime."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from detheads import __version__
from detheads.export.graph import (
    DENSE_NAMES,
    INPUT_NAME,
    OUTPUT_NAMES,
    DetectorGraph,
    GraphWithDense,
    decision_names,
)
from detheads.export.inner import Inner, InnerGraph, differences
from detheads.export.matching import TensorDifference
from detheads.foundation.atomic import replacing
from detheads.foundation.bundle import ParityEntry
from detheads.foundation.errors import UserError
from detheads.ops.decisions import recording

OPSET = 20
"""Newer opsets turn attention into a node that TensorRT reads only from 10.14."""

TRACE_BATCH = 2
"""A batch of 1 would be baked into the graph."""

PARITY_BATCH = 3
PARITY_TOLERANCE = 1e-3
"""Of boxes as a share of the longer side, of scores, and of what the head chose between. Rounding stays far below."""

MAX_EMBEDDED_BYTES = 2**31 - 1
"""A protobuf message cannot be larger."""


@dataclass(frozen=True)
class OnnxExport:
    """The written file and its self-check."""

    path: Path
    bytes: int
    opset: int
    nodes: int
    parity: ParityEntry


def export_onnx(graph: DetectorGraph, path: Path, metadata: dict[str, str]) -> OnnxExport:
    """Write ``graph`` to ``path`` with all weights inside, batch size free, and compare it with PyTorch.

    Args:
        metadata: string pairs stored in the file (``BundleManifest.graph_metadata``).

    Raises:
        UserError: when the head cannot be traced, the graph is larger than one file can be, or the file computes
            something else than PyTorch.
    """
    model = _trace(graph)
    _strip(model)
    _declare_outputs(model, OUTPUT_NAMES)
    onnx.helper.set_model_props(model, metadata)
    model.producer_name, model.producer_version = "detheads", __version__
    if model.ByteSize() > MAX_EMBEDDED_BYTES:
        raise UserError(
            f"the graph has {model.ByteSize() / 1e9:.1f} GB, more than the 2 GB that one ONNX file can hold; "
            "choose a smaller backbone."
        )
    with replacing(path) as partial:
        onnx.save_model(model, str(partial))
    onnx.checker.check_model(model, full_check=True)  # not the file, whose name may not be UTF-8
    opset = next(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"})
    if opset != OPSET:
        raise UserError(f"the installed torch writes ONNX opset {opset}, not {OPSET}; install torch 2.7 or newer.")
    return OnnxExport(path, path.stat().st_size, opset, len(model.graph.node), _check_parity(graph, path))


def random_inputs(graph: DetectorGraph, batch: int, seed: int) -> Tensor:
    """Seeded images, uint8 ``[batch, 3, H, W]``: coarse blocks with noise, as flat noise says little to a network."""
    generator = torch.Generator().manual_seed(seed)
    height, width = graph.spec.height, graph.spec.width
    blocks = torch.randint(0, 256, (batch, 3, 8, 8), generator=generator).float()
    smooth = torch.nn.functional.interpolate(blocks, (height, width), mode="bilinear")
    noise = 12 * torch.randn(batch, 3, height, width, generator=generator)
    return (smooth + noise).clamp(0, 255).to(torch.uint8)


def _trace(graph: DetectorGraph) -> onnx.ModelProto:
    module = GraphWithDense(graph).eval()
    images = random_inputs(graph, TRACE_BATCH, seed=0)
    with torch.no_grad(), recording() as journal:
        graph.dense(images)
    decisions = [name for number in range(len(journal.decisions)) for name in decision_names(number)]
    try:
        with torch.no_grad(), quiet():
            program = torch.onnx.export(
                module,
                (images,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=[*OUTPUT_NAMES, *DENSE_NAMES, *decisions],
                dynamic_shapes={INPUT_NAME: {0: torch.export.Dim("batch", min=1, max=1024)}},
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
        cause = error.__cause__ or error
        first = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise UserError(
            f"the head {type(graph.head).__name__} cannot be traced to ONNX: {first.rstrip('.')}."
        ) from error
    if program is None:
        raise UserError("torch.onnx gave no graph; install the extra again: pip install 'detheads[export]'.")
    return program.model_proto


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter narrates on standard output, in logs and through warnings; ``--json`` needs that stream."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _strip(model: onnx.ModelProto) -> None:
    """Remove what the tracer notes about its own machine: stack traces with file paths, and module class names."""
    model.doc_string = ""
    del model.metadata_props[:]
    graph = model.graph
    graph.doc_string = ""
    del graph.metadata_props[:]
    for item in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    for function in model.functions:
        function.doc_string = ""
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]


def _declare_outputs(model: onnx.ModelProto, names: tuple[str, ...]) -> None:
    kept = [output for output in model.graph.output if output.name in names]
    inner = [output for output in model.graph.output if output.name not in names]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    model.graph.value_info.extend(inner)


def self_check(
    graph: DetectorGraph, run: Callable[[NDArray[np.uint8]], Inner], *, batch: int = PARITY_BATCH, seed: int = 1
) -> TensorDifference:
    """How far what an exported graph computes inside is from PyTorch, on random images.

    Args:
        run: a batch through the exported graph.

    Raises:
        UserError: when PyTorch itself gives numbers that are not finite, or the two give boxes of other shapes.
    """
    images = random_inputs(graph, batch, seed)

    @torch.no_grad()
    def live() -> tuple[Tensor, Tensor]:
        boxes, scores = graph.dense(images)
        if not (boxes.isfinite().all() and scores.isfinite().all()):
            raise UserError("the head gives numbers that are not finite; train it again before exporting it.")
        return boxes, scores

    return differences(live, run(images.numpy()))


def _check_parity(graph: DetectorGraph, path: Path) -> ParityEntry:
    """Compare with PyTorch on inputs and at a batch size that were not traced."""
    difference = self_check(graph, InnerGraph(path).run)
    if not difference.within(PARITY_TOLERANCE):
        raise UserError(
            f"the ONNX graph differs from PyTorch on random images: {difference.told()}; nothing was exported."
        )
    return ParityEntry(
        batch=PARITY_BATCH,
        dense_boxes=difference.boxes,
        relative_boxes=difference.relative_boxes,
        best_boxes=difference.best_boxes,
        dense_scores=difference.scores,
        chosen_between=difference.chosen_between,
        ties=difference.ties,
    )
