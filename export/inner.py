"""The inside of a shipped graph: tensors before suppression, decisions of the head, and PyTorch held against them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from detheads.deploy.backends.onnx_runtime import open_graph
from detheads.export.graph import DENSE_NAMES, INPUT_NAME, decision_names
from detheads.export.matching import TensorDifference, in_the_order_of
from detheads.foundation.errors import UserError
from detheads.ops.decisions import recording

SELECTING = {"TopK", "ArgMax", "ArgMin", "NonZero", "Compress", "NonMaxSuppression", "Unique"}
"""Operators that give places. Suppression at the graph's end has one of them, a TopK."""


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
    """An exported file with its inner tensors as further outputs, in ONNX Runtime on the CPU.

    Nothing else is changed, so what it computes is what the shipped graph computes inside.

    Args:
        threads: CPU threads of one run; ONNX Runtime's own choice when None.

    Raises:
        UserError: when the file was not written by this exporter.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        model = onnx.load_model(str(path))
        self._pairs = _expose(model, path)
        operators = [node.op_type for node in model.graph.node]
        selecting = sum(operator in SELECTING for operator in operators) - 1  # that of suppression
        self._unordered = selecting > sum(indices for _, _, indices in self._pairs)
        self._session = open_graph(bytes(model.SerializeToString()), threads=threads)

    def run(self, images: NDArray[np.uint8]) -> Inner:
        """Letterboxed RGB ``[B, 3, H, W]`` through the graph."""
        names = [name for values, choice, _ in self._pairs for name in (values, choice)]
        boxes, scores, *decided = self._session.run([*DENSE_NAMES, *names], {INPUT_NAME: images})
        tensors = [torch.from_numpy(np.asarray(array)) for array in decided]
        return Inner(boxes, scores, list(zip(tensors[::2], tensors[1::2], strict=True)), self._unordered)


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


def _expose(model: onnx.ModelProto, path: Path) -> list[tuple[str, str, bool]]:
    """Declare the inner tensors as outputs; returns the names of each decision, and whether it chose indices."""
    known = {output for node in model.graph.node for output in node.output}
    if not known.issuperset(DENSE_NAMES):
        raise UserError(f"{path} does not name its tensors before suppression; export it again.")
    typed = {entry.name: entry for entry in model.graph.value_info}
    for name in DENSE_NAMES:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    pairs: list[tuple[str, str, bool]] = []
    while set(names := decision_names(len(pairs))) <= typed.keys() and known.issuperset(names):
        model.graph.output.extend(typed[name] for name in names)
        pairs.append((*names, typed[names[1]].type.tensor_type.elem_type == onnx.TensorProto.INT64))
    return pairs
