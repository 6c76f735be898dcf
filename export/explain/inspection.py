"""The graph of an artefact against PyTorch: the first module that departs, and what is wrong with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detheads.export.explain.decoding import altered_classes, explain_boxes
from detheads.export.explain.explanation import Cause, Departure
from detheads.export.explain.hooks import parameters
from detheads.export.explain.marks import coarsest, within
from detheads.export.explain.precision import Witness, differs_from
from detheads.export.explain.preprocessing import explain_normalisation
from detheads.export.explain.trail import STAGES, Sides, Step, began, coarse, first_departing
from detheads.export.explain.weights import Altered, altered
from detheads.export.matching import Dense


@dataclass(frozen=True)
class InsideFound:
    """What the graph's inside tells.

    Attributes:
        dense: the artefact's own dense predictions of each picture.
        trail: the largest error of each stage, as JSON values.
        precision: the coarsest in the graph.
    """

    departure: Departure | None
    causes: Sequence[Cause]
    dense: Sequence[Dense]
    trail: Sequence[Mapping[str, Any]]
    precision: str


def explain_inside(
    sides: Sides, pictures: Sequence[NDArray[np.uint8]], classes: Sequence[str], threads: int | None = None
) -> InsideFound:
    """Find the first module that departs on letterboxed pictures ``[3, H, W]``, and why.

    Args:
        classes: names of the detector's classes.
    """
    steps = sides.steps(pictures, coarse)
    pairs = [sides.dense(picture) for picture in pictures]
    live, own = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    trail = [step.to_dict() for step in _of_stages(steps)]
    first = first_departing(steps, sides.inside.map.following)
    precision = coarsest(sides.inside.map.precision.values())
    if first is None and precision != "int8":
        return InsideFound(None, (), own, trail, precision)
    witness = Witness(sides, threads)
    if precision == "int8":
        cause = witness.explain_layers(pictures, live, own)
        if cause is not None:
            layer = cause.evidence["layer"]
            found = sides.steps(pictures[:1], lambda path: path == layer or coarse(path))
            step = max((one for one in found if one.module == layer), key=lambda one: one.error, default=None)
            stage = sides.stage(layer)
            where = Departure(stage, layer) if step is None else departure_of(step)
            return InsideFound(where, [replace(cause, stage=stage)], own, trail, precision)
    if first is None:
        return InsideFound(None, (), own, trail, precision)
    first = began(steps, first)
    first = _inside_of(sides, first, pictures[0])
    cause = _cause(sides, witness, first, pictures, live, own, precision, classes)
    return InsideFound(departure_of(first), [replace(cause, stage=first.stage)], own, trail, precision)


def _inside_of(sides: Sides, block: Step, picture: NDArray[np.uint8]) -> Step:
    """The first departing step inside a block that departs; the block itself where none does."""
    if block.module not in sides.modules:
        return block
    steps = sides.steps([picture], lambda path: within(path, block.module))
    return next((step for step in steps if step.departs and within(step.module, block.module)), block)


def departure_of(step: Step) -> Departure:
    """A step as what is reported of it."""
    return Departure(step.stage, step.name, step.value, step.error, step.limit, step.before)


def _cause(
    sides: Sides,
    witness: Witness,
    first: Step,
    pictures: Sequence[NDArray[np.uint8]],
    live: Sequence[Dense],
    own: Sequence[Dense],
    precision: str,
    classes: Sequence[str],
) -> Cause:
    if first.module == "normalisation":
        normalised = [sides.normalised(picture) for picture in pictures]
        if all(array is not None for array in normalised):
            backbone = sides.backbone.spec
            return explain_normalisation(pictures, normalised, backbone.mean, backbone.std)  # type: ignore[arg-type]
    if not np.isfinite(first.error):
        cause = witness.explain_overflow(pictures[0], first.module)
        if cause is not None:
            return cause
    if precision != "float32" and differs_from(live, own, witness.dense(pictures)):
        return Cause(
            "rounding",
            "",
            f"{precision} rounds too much here: in FP32 the same graph agrees with PyTorch, and no single layer is it",
        )
    if first.module in sides.modules:
        wrong = altered(witness.model, first.module, parameters(sides.modules, first.module), precision)
        names = [classes[label] for label in altered_classes(live, own)]
        if names:
            return _altered_classes(names, wrong)
        if wrong:
            return Cause(
                "weights",
                "",
                f"the graph holds other weights than the model: {wrong[0].name} differs by "
                f"{100 * wrong[0].error:.3g} %; the file was changed",
                {"parameter": wrong[0].name, "error": wrong[0].error},
            )
    if first.stage == "decode":
        strides = getattr(sides.head, "strides", None)
        cause = explain_boxes(live, own, None if strides is None else strides.detach().cpu().numpy())
        if cause is not None:
            return cause
    return Cause(
        "graph",
        "",
        f"the graph computes something else than PyTorch in {first.name}, with the same weights: the file was changed, "
        "or the exporter errs; export again",
    )


def _altered_classes(names: Sequence[str], wrong: Sequence[Altered]) -> Cause:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    what = "are altered"
    if wrong:
        zero = "zero" if wrong[0].zeros else "other numbers"
        what = f"are altered: {wrong[0].name} has {zero} in {len(wrong[0].rows)} of its output channels"
    evidence = {"classes": list(names), "parameters": [one.name for one in wrong]}
    return Cause("class weights", "", f"the weights of class {shown} {what}, and other classes are right", evidence)


def _of_stages(steps: Sequence[Step]) -> list[Step]:
    """Of each stage the step whose error exceeds what rounding explains most, or comes nearest to it."""
    worst: dict[str, Step] = {}
    for step in steps:
        if step.stage not in worst or step.error / step.limit > worst[step.stage].error / worst[step.stage].limit:
            worst[step.stage] = step
    return [worst[stage] for stage in STAGES if stage in worst]
