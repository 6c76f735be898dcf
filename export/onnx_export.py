"""The graph file: written whole, checked by onnx, and its dense part compared with PyTorch in ONNX Runtime."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from detheads import __version__
from detheads.export.graph import DetectorGraph
from detheads.export.inner import Inner, InnerGraph, differences
from detheads.export.matching import TensorDifference
from detheads.export.trace import random_inputs
from detheads.foundation.atomic import replacing
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import ParityEntry

PARITY_BATCH = 3
PARITY_TOLERANCE = 1e-3
"""Of boxes as a share of the longer side, of scores, and of what the head chose between. Rounding stays far below."""

MAX_EMBEDDED_BYTES = 2**31 - 1
"""A protobuf message cannot be larger."""


def write_onnx(model: onnx.ModelProto, path: Path, metadata: Mapping[str, str]) -> None:
    """Write ``model`` to ``path`` with all weights inside, after onnx has checked it.

    Args:
        metadata: string pairs stored in the file (``BundleManifest.graph_metadata``).

    Raises:
        UserError: when the graph is larger than one file can be.
    """
    onnx.helper.set_model_props(model, dict(metadata))
    model.producer_name, model.producer_version = "detheads", __version__
    if model.ByteSize() > MAX_EMBEDDED_BYTES:
        raise UserError(
            f"the graph has {model.ByteSize() / 1e9:.1f} GB, more than the 2 GB that one ONNX file can hold; "
            "choose a smaller backbone."
        )
    onnx.checker.check_model(model, full_check=True)  # not the file, whose name may not be UTF-8
    with replacing(path) as partial_file:
        onnx.save_model(model, str(partial_file))


def check_parity(graph: DetectorGraph, model: onnx.ModelProto) -> dict[str, ParityEntry]:
    """Compare a traced graph with PyTorch on inputs and at a batch size that were not traced.

    Returns:
        What was measured of each head.

    Raises:
        UserError: when the graph computes something else than PyTorch.
    """
    entries = {}
    for name, difference in self_check(graph, InnerGraph(model).run).items():
        if not difference.within(PARITY_TOLERANCE):
            raise UserError(
                f"the ONNX graph differs from PyTorch on random images: {difference.told()}; nothing was exported."
            )
        entries[name] = ParityEntry(
            batch=PARITY_BATCH,
            dense_boxes=difference.boxes,
            relative_boxes=difference.relative_boxes,
            best_boxes=difference.best_boxes,
            dense_scores=difference.scores,
            chosen_between=difference.chosen_between,
            ties=difference.ties,
        )
    return entries


def self_check(
    graph: DetectorGraph,
    run: Callable[[NDArray[np.uint8]], dict[str, Inner]],
    *,
    batch: int = PARITY_BATCH,
    seed: int = 1,
) -> dict[str, TensorDifference]:
    """How far what an exported graph computes inside is from PyTorch, on random images, for each head.

    Args:
        run: a batch through the exported graph.

    Raises:
        UserError: when PyTorch itself gives numbers that are not finite, or the two give boxes of other shapes.
    """
    images = random_inputs(graph, batch, seed)

    @torch.no_grad()
    def live(name: str) -> tuple[Tensor, Tensor]:
        boxes, scores = graph.dense(images, name)
        if not (boxes.isfinite().all() and scores.isfinite().all()):
            raise UserError("the head gives numbers that are not finite; train it again before exporting it.")
        return boxes, scores

    found = run(images.numpy())
    return {name: differences(partial(live, name), found[name]) for name in graph.names}
