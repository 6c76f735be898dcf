"""INT8: all layers that may be, but for the blocks whose INT8 the proof does not let pass."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from detheads.export.precision.blocks import Layer, in_blocks, kept_float, weighted_layers
from detheads.export.precision.fallback import Step, fewest
from detheads.export.precision.plan import Converted, Judge, Plan, Verdict
from detheads.export.precision.qdq import Quantiser, measure_ranges
from detheads.export.precision.sensitivity import rank_blocks
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress

RANKED_ON = 8
"""Calibration pictures that blocks are ranked on, evenly spaced. Only the order counts; the judge sees all."""

CPU_FORM, ENGINE_FORM = "uint8 with a free zero, for CPUs", "int8 with zero at 0, for TensorRT"

NAMED = 5
"""Blocks that a remark names."""


def convert(dense: onnx.ModelProto, plan: Plan, judge: Judge | None, on_progress: Progress) -> Converted:
    """See :class:`detheads.export.precision.convert.Method`.

    Without a judge, or without ``plan.fallback``, everything that may be INT8 is. With both, the most harmful blocks
    return to FP32 until the judge lets the graph pass; where none passes, the one with the highest AP is given, which
    the proof then refuses.
    """
    pictures = plan.pictures()
    kept = kept_float(dense) if plan.keep else {}
    layers = weighted_layers(dense, kept)
    if not layers:
        raise UserError("the graph has no convolution or product with weights that could be INT8; export in fp32.")
    on_progress("INT8, ranges", 0, 0)
    quantiser = Quantiser(dense, measure_ranges(dense, layers, pictures.images, plan.method), symmetric=plan.engine)
    search = Search(dense, quantiser, layers, pictures.images, on_progress)
    returned = 0 if judge is None else search.returned(judge, plan.fallback)
    details = {
        "method": plan.method,
        "form": ENGINE_FORM if plan.engine else CPU_FORM,
        "kept": {node: kept[node] for layer in weighted_layers(dense) for node in layer.nodes if node in kept},
        **search.told(returned),
    }
    remarks = [_remark(details)]
    if judge is None:
        remarks.append("nobody measured what INT8 costs this model: without a proof no block returns to FP32")
    if plan.engine:
        remarks.append("the INT8 graph has the form that TensorRT takes, in which CPUs are seldom faster than in FP32; "
                       "--onnx-only gives the form for CPUs")  # fmt: skip
    return Converted(quantiser.graph(search.remaining(returned)), details, tuple(remarks))


class Search:
    """Which blocks return to FP32.

    Args:
        layers: all that may be INT8.
        images: calibration pictures ``[n, 3, H, W]``.

    Attributes:
        blocks: the layers by block.
        harm: what INT8 of each block costs alone, most harmful first; empty as long as nobody needs to know.
        steps: what was judged, by the number of blocks returned.
    """

    def __init__(
        self,
        dense: onnx.ModelProto,
        quantiser: Quantiser,
        layers: Sequence[Layer],
        images: NDArray[np.uint8],
        on_progress: Progress,
    ) -> None:
        self._dense, self._quantiser, self._layers = dense, quantiser, layers
        chosen = np.linspace(0, len(images) - 1, RANKED_ON).astype(int)
        self._images, self._on_progress = images[np.unique(chosen)], on_progress
        self.blocks = in_blocks(layers)
        self.harm: dict[str, float] = {}
        self.steps: dict[int, Step] = {}

    def returned(self, judge: Judge, fallback: bool) -> int:
        """How many blocks return, of the most harmful: the fewest that pass, else those that give the highest AP."""
        found = fewest(len(self.blocks) - 1 if fallback else 0, partial(self._judged, judge))
        return max(self.steps, key=lambda number: self.steps[number].ap) if found is None else found

    def remaining(self, returned: int) -> list[Layer]:
        """The layers in INT8."""
        harmful = set(list(self.harm)[:returned])
        return [layer for layer in self._layers if layer.block not in harmful]

    def told(self, returned: int) -> dict[str, Any]:
        """JSON values."""
        chosen, kept = self.remaining(returned), list(self.harm)[:returned]
        return {
            "layers": len(self._layers),
            "int8_layers": len(chosen),
            "share": len(chosen) / len(self._layers),
            "returned": kept,
            "blocks": [
                {"name": name, "layers": len(members), "harm": self.harm.get(name), "int8": name not in kept}
                for name, members in self.blocks.items()
            ],
            "curve": [self.steps[number].to_dict() for number in sorted(self.steps)],
        }

    def _judged(self, judge: Judge, returned: int) -> Verdict:
        if returned and not self.harm:
            self.harm = rank_blocks(self._dense, self._quantiser, self.blocks, self._images, self._on_progress)
        layers = self.remaining(returned)
        verdict = judge(self._quantiser.graph(layers))
        share = len(layers) / len(self._layers)
        self.steps[returned] = Step(returned, len(layers), share, verdict.ap, verdict.passed, verdict.reasons)
        return verdict


def _remark(details: dict[str, Any]) -> str:
    text = f"INT8: {details['int8_layers']} of {details['layers']} layers ({100 * details['share']:.0f} %)"
    returned = details["returned"]
    further = f" and {len(returned) - NAMED} more" if len(returned) > NAMED else ""
    return f"{text}; back in FP32: {', '.join(returned[:NAMED])}{further}" if returned else text
