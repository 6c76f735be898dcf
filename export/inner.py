"""The inside of a shipped graph: tensors before suppression, decisions of the head, and PyTorch held against them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from detheads.deploy.backends.onnx_runtime import open_graph
from detheads.export.matching import TensorDifference, in_the_order_of
from detheads.export.names import DENSE_NAMES, INPUT_NAME, decision_names
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import ONLY_HEAD
from detheads.ops.decisions import recording

SELECTING = {"TopK", "ArgMax", "ArgMin", "NonZero", "Compress", "NonMaxSuppression", "Unique"}
"""Operators that give places."""


@dataclass(frozen=True)
class Inner:
    """What a graph computed of a batch.

    Attributes:
        boxes: before suppression, ``[B, N, 4]`` xyxy, input pixels.
        scores: ``[B, N, K]``.
        decisions: of each decision of the head what it chose between, and its choice.
        unordered: the head selects by operators of its own, not by ``decide``: its rows have no fixed place.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    decisions: Sequence[tuple[Tensor, Tensor]] = ()
    unordered: bool = False


class InnerGraph:
    """An exported graph with its inner tensors as outputs, in ONNX Runtime on the CPU.

    Nothing else is changed, so what it computes is what the shipped graph computes inside.

    Args:
        graph: a file of this exporter, or a graph in memory, which is left as it is.
        threads: CPU threads of one run; ONNX Runtime's own choice when None.

    Raises:
        UserError: when the file was not written by this exporter.
    """

    def __init__(self, graph: Path | onnx.ModelProto, threads: int | None = None) -> None:
        model = onnx.load_model(str(graph)) if isinstance(graph, Path) else graph
        self._heads = _heads(model.graph, str(graph) if isinstance(graph, Path) else "the graph")
        names = [name for head in self._heads.values() for name in head.names]
        self._session = open_graph(_with_outputs(model, names), threads=threads)

    def run(self, images: NDArray[np.uint8]) -> dict[str, Inner]:
        """Letterboxed RGB ``[B, 3, H, W]`` through the graph: what each head computed."""
        found = {}
        for name, head in self._heads.items():
            boxes, scores, *decided = self._session.run(head.names, {INPUT_NAME: images})
            tensors = [torch.from_numpy(np.asarray(array)) for array in decided]
            pairs = list(zip(tensors[::2], tensors[1::2], strict=True))
            found[name] = Inner(boxes, scores, pairs, head.unordered)
        return found


@dataclass(frozen=True)
class _HeadTensors:
    """Names of a head's inner tensors: boxes, scores, then values and choice of each decision."""

    names: list[str]
    unordered: bool


def differences(live: Callable[[], tuple[Tensor, Tensor]], found: Inner) -> TensorDifference:
    """Hold PyTorch against what a graph computed inside.

    Where rounding turned a choice of the head between near-equal numbers, every number behind it would differ. PyTorch
    therefore makes the graph's choices, wherever they follow from the graph's own numbers, and the numbers chosen
    between are compared as the outputs are.

    Args:
        live: the same batch through PyTorch: boxes ``[B, N, 4]`` and scores ``[B, N, K]`` before suppression.
    """
    with recording(found.decisions) as journal:
        boxes, scores = (tensor.detach().cpu().numpy() for tensor in live())
    difference = TensorDifference()
    for decision in journal.decisions:
        difference.add_decision(decision)
    if len(journal.decisions) != len(found.decisions):
        difference.broken += 1
    for row in range(len(boxes)):
        one = found.boxes[row], found.scores[row]
        if found.unordered:
            one = in_the_order_of((boxes[row], scores[row]), one)
        difference.add(boxes[row], scores[row], *one)
    return difference


def _heads(graph: onnx.GraphProto, where: str) -> dict[str, _HeadTensors]:
    """The heads of a graph by name."""
    known = {output for node in graph.node for output in node.output}
    types = {entry.name: entry.type.tensor_type.elem_type for entry in (*graph.value_info, *graph.output)}
    prefixes = sorted(name.removesuffix(DENSE_NAMES[0]) for name in known if name.endswith(DENSE_NAMES[0]))
    if not prefixes or not all(prefix + DENSE_NAMES[1] in known for prefix in prefixes):
        raise UserError(f"{where} does not name its tensors before suppression; export it again.")
    found = {}
    for prefix in prefixes:
        decided: list[str] = []
        indices = 0
        while set(pair := decision_names(len(decided) // 2, prefix)) <= known & types.keys():
            decided += pair
            indices += types[pair[1]] == onnx.TensorProto.INT64
        name = prefix.removesuffix(".") or ONLY_HEAD
        names = [prefix + each for each in DENSE_NAMES] + decided
        found[name] = _HeadTensors(names, _selecting(graph, name) > indices)
    return found


def _selecting(graph: onnx.GraphProto, head: str) -> int:
    """How many operators of a head give places."""
    of_head = re.compile(rf"{re.escape(head)}[./]")
    return sum(node.op_type in SELECTING for node in graph.node if of_head.match(node.name))


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> bytes:
    """The graph with these tensors as outputs too; ONNX Runtime finds out their types."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {output.name for output in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    return bytes(copy.SerializeToString())
