"""Where an artefact departs from PyTorch: the tensors that leave its modules, held against the artefact's own.

Rounding makes every tensor differ a little, and more so with every layer. What is looked for is a difference that
rounding does not explain (see :func:`limit`), and the module where it began: the one whose result is off while what
went into it was not.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from detheads.backbones.backbone import Backbone
from detheads.export.explain.hooks import paths, taking
from detheads.export.explain.inside import Inside
from detheads.export.explain.marks import ROUNDING, decisions, within
from detheads.export.matching import Dense, in_the_order_of
from detheads.export.names import DENSE_NAMES, prefix_of
from detheads.foundation.manifest import ONLY_HEAD
from detheads.headkit.contract import Head
from detheads.ops.decisions import recording
from detheads.ops.scores import detection_scores

STAGES = ("input", "normalisation", "backbone", "features", "head", "levels", "towers", "predictions", "decode")
"""In order; ``suppression`` comes behind them and has no inner tensors."""

MARGIN = {"float32": 64.0, "float16": 24.0, "bfloat16": 24.0, "int8": 24.0}
"""How much larger than the rounding of one number, times the root of the depth, a difference may be.

Measured on whole sound graphs: EfficientNet-Lite0 with ``fcos`` at 384 px reaches 20 (float32) and 8 (float16
throughout), a small ViT with ``fcos`` 7 and 0.5; INT8 reaches 6 on the ViT and 55 on the EfficientNet, whose depthwise
layers take it badly. So INT8 is not judged by this alone: its layers are restored one by one (``precision.py``).
"""

SELECTED = 1000
"""Rows up to which dense predictions may be those that a head has selected, which have no fixed order."""

JUMP = 4.0
"""A module departs when the difference grows in it by more than this; below it accumulates from module to module."""


@dataclass(frozen=True)
class Step:
    """One tensor on both sides.

    Attributes:
        module: the PyTorch module that it leaves; ``"normalisation"``, ``"dense_boxes"`` and ``"dense_scores"`` are
            what the detector itself makes.
        call: which call of the module, where it is called for several levels.
        value: its name in the graph.
        error: root mean square of the difference, over that of PyTorch's tensor; the largest of all pictures.
        limit: what rounding explains of it.
        magnitude: largest number of PyTorch's tensor.
        before: the largest error of what it was made from.
    """

    stage: str
    module: str
    call: int
    value: str
    error: float
    limit: float
    magnitude: float
    precision: str
    order: int
    before: float = 0.0

    @property
    def departs(self) -> bool:
        return not self.error <= self.limit

    @property
    def name(self) -> str:
        """Module and call for a reader."""
        return self.module + (f" (call {self.call + 1})" if self.call else "")

    def to_dict(self) -> dict[str, Any]:
        finite = bool(np.isfinite(self.error))
        return {
            "stage": self.stage,
            "module": self.module,
            "call": self.call,
            "tensor": self.value,
            "error": self.error if finite else None,
            "limit": self.limit,
            "magnitude": self.magnitude,
            "precision": self.precision,
        }


class Sides:
    """Both sides on the same letterboxed pictures, opened up.

    Args:
        name: of the head in the graph.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        backbone: Backbone,
        head: Head,
        *,
        name: str = ONLY_HEAD,
        threads: int | None = None,
    ) -> None:
        self.backbone, self.head, self.name, self.prefix = backbone, head, name, prefix_of(name)
        self.inside = Inside(model, self.prefix, threads)
        self.modules = paths(backbone, head, name)

    def steps(self, pictures: Sequence[NDArray[np.uint8]], wanted: Callable[[str], bool]) -> list[Step]:
        """All tensors that leave wanted modules, in the order in which the graph makes them.

        Args:
            pictures: letterboxed RGB ``[3, H, W]``.
        """
        marks = {module: found for module in self.modules if wanted(module) and (found := self._leaving(module))}
        measured: dict[str, list[tuple[str, int, float, float]]] = {}
        for picture in pictures:
            for module, call, value, error, magnitude in self._picture(picture[None], marks):
                measured.setdefault(value, []).append((module, call, error, magnitude))
        return self._linked(measured)

    def dense(self, picture: NDArray[np.uint8]) -> tuple[Dense, Dense]:
        """Boxes ``[N, 4]`` and scores ``[N, K]`` of a letterboxed picture: PyTorch's, and the artefact's."""
        names = [f"{self.prefix}{name}" for name in DENSE_NAMES]
        found = self.inside.run(picture[None], names)
        with torch.inference_mode():
            output = self.head(self.backbone(self.backbone.normalise(self._tensor(picture[None]))))
            scores = detection_scores(output.logits, output.quality)
        return (output.boxes[0].cpu().numpy(), scores[0].cpu().numpy()), (found[names[0]][0], found[names[1]][0])

    def normalised(self, picture: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """What enters the artefact's backbone, ``[3, H, W]``; None where that is no picture of one tensor."""
        entering = self.inside.map.entering("backbone")
        found = self.inside.run(picture[None], entering)
        wanted = [array for array in found.values() if array.shape == (1, *picture.shape)]
        return wanted[0][0].astype(np.float32) if wanted else None

    def _leaving(self, module: str) -> list[str]:
        return [value for value in self.inside.map.leaving(module) if self.inside.is_float(value)]

    def _tensor(self, images: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(images).to(self.backbone.mean.device)

    def _picture(
        self, images: NDArray[np.uint8], marks: dict[str, list[str]]
    ) -> Iterable[tuple[str, int, str, float, float]]:
        """Module, call, tensor, error and magnitude of one picture."""
        entering = [value for value in self.inside.map.entering("backbone") if self.inside.is_float(value)]
        dense = [f"{self.prefix}{name}" for name in DENSE_NAMES]
        choices = decisions(self.inside.map.order, self.prefix)
        found = self.inside.run(
            images, [*entering, *dense, *choices, *(value for values in marks.values() for value in values)]
        )
        decided = [torch.from_numpy(found[name]) for name in choices]
        with (
            torch.inference_mode(),
            recording(list(zip(decided[::2], decided[1::2], strict=True))),
            taking(self.modules, marks.__contains__) as taken,
        ):
            normalised = self.backbone.normalise(self._tensor(images))
            output = self.head(self.backbone(normalised))
            scores = detection_scores(output.logits, output.quality)
        own = {"normalisation": (entering, [normalised.cpu().numpy()])}
        pair = [output.boxes.cpu().numpy(), scores.cpu().numpy()]
        if pair[0].shape[1] <= SELECTED and [found[name].shape for name in dense] == [one.shape for one in pair]:
            ordered = in_the_order_of((pair[0][0], pair[1][0]), (found[dense[0]][0], found[dense[1]][0]))
            found |= {name: array[None] for name, array in zip(dense, ordered, strict=True)}
        own |= {plain: ([name], [array]) for plain, name, array in zip(DENSE_NAMES, dense, pair, strict=True)}
        own |= {module: (values, taken.tensors.get(module, [])) for module, values in marks.items()}
        for module, (values, tensors) in own.items():
            for call, value, tensor in _paired(tensors, [(value, found[value]) for value in values if value in found]):
                yield module, call, value, _error(tensor, found[value]), float(np.abs(tensor).max(initial=0.0))

    def _linked(self, measured: dict[str, list[tuple[str, int, float, float]]]) -> list[Step]:
        graph, steps = self.inside.map, []
        before = dict.fromkeys(measured, 0.0)
        for value, found in measured.items():
            error = max(one[2] for one in found)
            for following in graph.following(value, measured.__contains__):
                before[following] = max(before[following], error)
        for value, found in measured.items():
            module, call = found[0][:2]
            precision = graph.precision[value]
            steps.append(
                Step(
                    self.stage(module),
                    module,
                    call,
                    value,
                    max(one[2] for one in found),
                    limit(precision, graph.depth[value]),
                    max(one[3] for one in found),
                    precision,
                    graph.order[value],
                    before[value],
                )
            )
        return sorted(steps, key=lambda step: step.order)

    def stage(self, module: str) -> str:
        """The stage that a module belongs to."""
        if module in {"normalisation", "backbone"}:
            return {"backbone": "features"}.get(module, module)
        if module in DENSE_NAMES or module == self.name:
            return "decode"
        if within(module, "backbone"):
            return "backbone"
        inner = module.removeprefix(f"{self.name}.")
        towers = any("tower" in path for path in self.modules)
        if "tower" in inner:
            return "towers"
        if inner.partition(".")[0] in _PREDICTIONS:
            return "predictions"
        return "levels" if towers else "head"


_PREDICTIONS = {"classes", "classifier", "distances", "centerness", "boxes", "logits", "quality", "scores"}
"""Attributes of heads that give what is decoded."""


def coarse(module: str) -> bool:
    """Whether a module is a block or larger: its path has nothing behind its first number but numbers."""
    return re.fullmatch(r"(?:[^\d.][^.]*\.)*[^\d.][^.]*(?:\.\d+)*", module) is not None


def limit(precision: str, depth: int) -> float:
    """The largest relative error that rounding explains, ``depth`` operators behind the input.

    Independent roundings add up like a random walk, hence the root.
    """
    return MARGIN[precision] * ROUNDING[precision] * float(np.sqrt(1 + depth))


def first_departing(steps: Sequence[Step], following: Callable[[str, Callable[[str], bool]], set[str]]) -> Step | None:
    """The step where the departure began; None when nothing departs to the end.

    A tensor whose difference dies out, that is when everything made from it is alike again, is none: the graph may
    compute the same in other steps than PyTorch. Of the departing tensors the first in order is where it shows; where
    it began is the module on the way there in which the difference grew most.
    """
    by_value = {step.value: step for step in steps}
    lasting: set[str] = set()
    for step in reversed(steps):
        after = following(step.value, by_value.__contains__)
        if step.departs and (not after or not lasting.isdisjoint(after)):
            lasting.add(step.value)
    return next((step for step in steps if step.value in lasting), None)


def began(steps: Sequence[Step], first: Step) -> Step:
    """The step where the difference that shows in ``first`` began: itself, or the last one before it that jumps."""
    if jumps(first):
        return first
    earlier = [step for step in steps if step.order < first.order and jumps(step)]
    return earlier[-1] if earlier else first


def jumps(step: Step) -> bool:
    """Whether the difference began in this module, and did not grow from module to module."""
    return not step.error <= JUMP * max(step.before, step.limit / MARGIN[step.precision])


def _paired(
    tensors: Sequence[NDArray[np.float32]], values: Sequence[tuple[str, NDArray[Any]]]
) -> Iterable[tuple[int, str, NDArray[np.float32]]]:
    """Each of PyTorch's tensors with the next tensor of the graph that has its shape: call, name, tensor."""
    free = list(values)
    for call, tensor in enumerate(tensors):
        match = next((place for place, (_, array) in enumerate(free) if array.shape == tensor.shape), None)
        if match is not None:
            yield call, free.pop(match)[0], tensor


def _error(reference: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    if not np.isfinite(found).all():
        return float("inf")
    wide = reference.astype(np.float64)
    size = float(np.sqrt(np.square(wide).mean()))
    return float(np.sqrt(np.square(wide - found).mean())) / max(size, 1e-12)
