"""Whether precision is why an artefact departs, and which tensor or layer it is.

The FP32 twin of the graph is the witness: where it equals PyTorch, rounding alone makes the difference.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detheads.export.explain.explanation import Cause
from detheads.export.explain.inside import Inside
from detheads.export.explain.marks import path_of
from detheads.export.explain.trail import Sides
from detheads.export.explain.twin import float_twin, quantised_layers, restored
from detheads.export.matching import Dense
from detheads.export.names import DENSE_NAMES

LARGEST_HALF = 65504.0
"""The largest number of FP16."""

CANDIDATES = 8
"""Quantised layers that are restored one by one: those in which the difference grows most."""

SHARE = 0.5
"""A layer is the cause when the artefact comes this much nearer to PyTorch without its quantisation."""


class Witness:
    """The FP32 twin of an artefact's graph, with the artefact itself beside it."""

    def __init__(self, sides: Sides, threads: int | None = None) -> None:
        self.sides, self._threads = sides, threads
        self.model = float_twin(sides.inside.model)
        self.inside = Inside(self.model, sides.prefix, threads)
        self._dense = [f"{sides.prefix}{name}" for name in DENSE_NAMES]

    def dense(self, pictures: Sequence[NDArray[np.uint8]], inside: Inside | None = None) -> list[Dense]:
        """Boxes ``[N, 4]`` and scores ``[N, K]`` of each picture by the twin, or by another form of it."""
        found = [(inside or self.inside).run(picture[None], self._dense) for picture in pictures]
        return [(one[self._dense[0]][0], one[self._dense[1]][0]) for one in found]

    def explain_overflow(self, picture: NDArray[np.uint8], module: str) -> Cause | None:
        """The first tensor of a module that is not finite in the artefact, and how large it is in FP32."""
        inside = self.sides.inside
        values = [
            output
            for node in inside.map.nodes_of(module)
            for output in node.output
            if output in inside.map.order and inside.is_float(output)
        ]
        found, wide = inside.run(picture[None], values), self.inside.run(picture[None], values)
        for value in values:
            if value not in found or np.isfinite(found[value]).all():
                continue
            largest = float(np.abs(wide[value]).max()) if value in wide else float("nan")
            node = next(node for node in inside.map.nodes_of(module) if value in node.output)
            name = f"{path_of(node) or module}, {node.op_type}"
            evidence = {"tensor": value, "operator": node.op_type, "largest_in_fp32": largest}
            if not np.isfinite(largest):
                return Cause("unknown", "", f"{name} is not finite in FP32 either (tensor {value})", evidence)
            if largest <= LARGEST_HALF:
                continue
            return Cause(
                "overflow",
                "",
                f"{name} overflows FP16: it reaches {largest:.3g} in FP32, and FP16 ends at {LARGEST_HALF:,.0f} "
                f"(tensor {value}); keep it in FP32",
                evidence,
            )
        return None

    def explain_layers(self, pictures: Sequence[NDArray[np.uint8]], live: Sequence[Dense], own: Sequence[Dense]) -> (
        Cause | None
    ):  # fmt: skip
        """The quantised layer without whose quantisation the artefact comes nearest to PyTorch.

        Args:
            live, own: PyTorch's and the artefact's dense predictions of the pictures.
        """
        ranked = self._ranked(pictures[0])
        without = {
            layer: Inside(restored(self.sides.inside.model, layer), self.sides.prefix, self._threads)
            for layer in ranked[:CANDIDATES]
        }
        if not without:
            return None
        layer = min(without, key=lambda name: _apart(live[:1], self.dense(pictures[:1], without[name])))
        base, best = _apart(live, own), _apart(live, self.dense(pictures, without[layer]))
        if best > (1 - SHARE) * base:
            return None
        return Cause(
            "quantised layer",
            "",
            f"the INT8 of {layer} is ruinous: with this layer alone in FP32 the difference before suppression falls "
            f"from {base:.3g} to {best:.3g}; keep it in higher precision",
            {"layer": layer, "difference": base, "difference_without": best, "layers": len(ranked)},
        )

    def _ranked(self, picture: NDArray[np.uint8]) -> list[str]:
        """Quantised layers, that in which the artefact's difference to its twin grows most first."""
        graph = self.sides.inside.map
        layers = quantised_layers(self.sides.inside.model)
        ends = {layer: (graph.entering(layer), graph.leaving(layer)) for layer in layers}
        values = [value for pair in ends.values() for names in pair for value in names]
        found, wide = self.sides.inside.run(picture[None], values), self.inside.run(picture[None], values)

        def error(names: Sequence[str]) -> float:
            return max((_relative(wide[name], found[name]) for name in names if name in found), default=0.0)

        return sorted(layers, key=lambda layer: error(ends[layer][0]) - error(ends[layer][1]))


def differs_from(live: Sequence[Dense], own: Sequence[Dense], twin: Sequence[Dense]) -> bool:
    """Whether the twin is much nearer to PyTorch than the artefact is: then precision makes the difference."""
    return _apart(live, twin) <= (1 - SHARE) * _apart(live, own)


def _apart(first: Sequence[Dense], second: Sequence[Dense]) -> float:
    """Mean difference of the dense predictions: boxes as a share of their sides, weighted by score, and scores."""
    total = []
    for (boxes, scores), (others, other_scores) in zip(first, second, strict=True):
        if not (np.isfinite(others).all() and np.isfinite(other_scores).all()):
            return float("inf")
        sides = np.maximum(1.0, np.abs(boxes[:, 2:] - boxes[:, :2]).max(axis=1))
        weight = scores.max(axis=1)
        moved = (np.abs(boxes - others).max(axis=1) / sides * weight).sum() / max(float(weight.sum()), 1e-12)
        total.append(float(moved) + _relative(scores, other_scores))
    return float(np.mean(total))


def _relative(reference: NDArray[Any], found: NDArray[Any]) -> float:
    if not np.isfinite(found).all():
        return float("inf")
    size = float(np.sqrt(np.square(reference, dtype=np.float64).mean()))
    return float(np.sqrt(np.square(reference - found, dtype=np.float64).mean())) / max(size, 1e-12)
