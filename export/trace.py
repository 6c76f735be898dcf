"""The FP32 master: PyTorch's dense graph as ONNX, its nodes named after modules, without traces of the machine."""

import contextlib
import io
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator

import onnx
import torch
from torch import Tensor

from detheads.export.graph import DetectorGraph
from detheads.export.names import DENSE_NAMES, INPUT_NAME, feature_name
from detheads.export.translations import TRANSLATIONS
from detheads.foundation.errors import UserError

OPSET = 20
"""Newer opsets turn attention into a node that TensorRT reads only from 10.14."""

TRACE_BATCH = 2
"""A batch of 1 would be baked into the graph."""

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where the tracer notes the modules that a node came from, outermost first, the operation itself last."""


def trace_dense(graph: DetectorGraph) -> onnx.ModelProto:
    """The dense graph: input ``images`` uint8 ``[batch, 3, H, W]``, dense boxes and scores of each head out.

    Nodes are called ``MODULE.PATH/OpType`` after the module of ``graph`` they came from, numbered where it has several.

    Raises:
        UserError: when a head cannot be traced, or the installed torch writes another opset.
    """
    images = random_inputs(graph, TRACE_BATCH, seed=0)
    with torch.no_grad():
        names = graph.output_names(images[:1])
    try:
        with torch.no_grad(), quiet():
            program = torch.onnx.export(
                graph,
                (images,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=names,
                dynamic_shapes={INPUT_NAME: {0: torch.export.Dim("batch", min=1, max=1024)}},
                custom_translation_table=TRANSLATIONS,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
        cause = error.__cause__ or error
        first = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        heads = ", ".join(type(head).__name__ for head in graph.heads)
        raise UserError(f"the head {heads} cannot be traced to ONNX: {first.rstrip('.')}.") from error
    if program is None:
        raise UserError("torch.onnx gave no graph; install the extra again: pip install 'detheads[export]'.")
    model = program.model_proto
    if opset_of(model) != OPSET:
        raise UserError(
            f"the installed torch writes ONNX opset {opset_of(model)}, not {OPSET}; install torch 2.7 or newer."
        )
    _name_nodes(model.graph, graph.names)
    _strip(model)
    _keep_inside(model, [name for name in names if not name.endswith(DENSE_NAMES)])
    _leave_out_unused(model.graph)
    return model


def opset_of(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators."""
    return int(next(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}))


def random_inputs(graph: DetectorGraph, batch: int, seed: int) -> Tensor:
    """Seeded images, uint8 ``[batch, 3, H, W]``: coarse blocks with noise, as flat noise says little to a network."""
    generator = torch.Generator().manual_seed(seed)
    height, width = graph.spec.height, graph.spec.width
    blocks = torch.randint(0, 256, (batch, 3, 8, 8), generator=generator).float()
    smooth = torch.nn.functional.interpolate(blocks, (height, width), mode="bilinear")
    noise = 12 * torch.randn(batch, 3, height, width, generator=generator)
    return (smooth + noise).clamp(0, 255).to(torch.uint8)


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


def _name_nodes(graph: onnx.GraphProto, heads: list[str]) -> None:
    """``backbone.maps.model.blocks.0.attn/MatMul_2``: who reads a complaint about a node finds its module."""
    named = {f"heads.{number}": name for number, name in enumerate(heads)}
    seen: Counter[str] = Counter()
    for node in graph.node:
        noted = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
        scopes = [scope.strip().strip("'\"") for scope in noted.strip("[]").split(",")]
        module = scopes[-2] if len(scopes) > 1 else ""
        of_head = re.match(r"heads\.\d+", module)
        if of_head:
            module = named[of_head[0]] + module[of_head.end() :]
        elif not module.startswith("backbone"):
            module = "graph"  # what DetectorGraph itself does: normalisation, scores
        name = f"{module}/{node.op_type}"
        node.name = f"{name}_{seen[name]}" if seen[name] else name
        seen[name] += 1


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


def _keep_inside(model: onnx.ModelProto, names: list[str]) -> None:
    """Outputs of these names become inner tensors whose types are known."""
    graph = model.graph
    inner = [output for output in graph.output if output.name in names]
    outputs = [output for output in graph.output if output.name not in names]
    del graph.output[:]
    graph.output.extend(outputs)
    graph.value_info.extend(inner)


def _leave_out_unused(graph: onnx.GraphProto) -> None:
    """Remove what computes feature maps that no head reads."""
    needed = {output.name for output in graph.output}
    needed |= {entry.name for entry in graph.value_info if not entry.name.startswith(feature_name(""))}
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        if needed.isdisjoint(node.output):
            del graph.node[index]
        else:
            needed.update(node.input)
    for entries in (graph.initializer, graph.value_info):
        for index in reversed(range(len(entries))):
            if entries[index].name not in needed:
                del entries[index]
