"""From a difference to its cause: the stages in order, each held against PyTorch, each hypothesis tried."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from PIL import Image

from detheads.export.diagnosis import apart
from detheads.export.explain.constants import explain_suppression
from detheads.export.explain.distance import REPRODUCES, SAME, mean_distance, worst_first
from detheads.export.explain.explanation import Cause, Departure, Explanation
from detheads.export.explain.inspection import InsideFound, explain_inside
from detheads.export.explain.preprocessing import explain_detections, explain_inputs
from detheads.export.explain.trail import Sides
from detheads.export.live import LiveDetections, LiveDetector
from detheads.export.matching import Dense, Found
from detheads.export.profiles.frames import Framed, WayBack
from detheads.foundation.geometry import has_area
from detheads.foundation.manifest import ONLY_HEAD, Thresholds
from detheads.foundation.progress import Progress, silent
from detheads.ops.nms import hard_nms
from detheads.ops.scores import detection_scores

PICTURES = 3
"""That an explanation is made on, the worst of all: an image through PyTorch takes up to seconds, and some twenty other
inputs of each are tried where nothing but detections is known."""


@dataclass(frozen=True)
class Suspect:
    """An artefact to explain: what detects, and what of its inside can be seen.

    Attributes:
        detect: RGB pictures -> detections in their own pixels.
        prepare: a picture -> the input it makes, ``[H, W, 3]`` RGB 0..255; None where it shows none.
        graph: its ONNX graph; None where it shows none.
    """

    detect: Callable[[Sequence[Image.Image]], Sequence[Found]]
    prepare: Callable[[Image.Image], Framed] | None = None
    graph: onnx.ModelProto | None = None


@dataclass(frozen=True)
class Seen:
    """A picture, and what both sides found in it."""

    name: str
    image: Image.Image
    live: Found
    found: Found


@dataclass(frozen=True)
class Shown(Seen):
    """A picture with its input as PyTorch gets it, ``[3, H, W]``, and the way back."""

    array: NDArray[np.uint8]
    way_back: WayBack


def explain(
    suspect: Suspect,
    live: LiveDetector,
    pictures: Sequence[Seen],
    classes: Sequence[str],
    *,
    failed: bool = True,
    head: str = ONLY_HEAD,
    threads: int | None = None,
    on_progress: Progress = silent,
) -> Explanation:
    """Name the first stage that departs and the likely cause.

    Args:
        live: the PyTorch side.
        pictures: some, of which those that differ most are looked at.
        classes: names of the detector's classes.
        failed: the proof failed. Else detections that differ by what its limits allow need no cause.
        head: name of the head in the graph.

    Raises:
        UserError: when ONNX Runtime refuses the graph.
    """
    started = time.perf_counter()
    order = worst_first([one.live for one in pictures], [one.found for one in pictures])
    shown = [_shown(pictures[place], live) for place in order[:PICTURES]]
    size = live.spec.width, live.spec.height
    on_progress("explaining, inputs", 0, 0)
    causes: list[Cause] = []
    departure: Departure | None = None
    if suspect.prepare is not None:
        inputs = [suspect.prepare(one.image)[0] for one in shown]
        if (cause := explain_inputs(inputs, [one.image for one in shown], size, live.frame)) is not None:
            causes, departure = [cause], Departure("input")
    inside = None
    if suspect.graph is not None:
        on_progress("explaining, tensors", 0, 0)
        sides = Sides(suspect.graph, live.backbone, live.head, name=head, threads=threads)
        inside = explain_inside(sides, [one.array for one in shown], classes, threads)
        causes, departure = [*causes, *inside.causes], departure or inside.departure
    if not causes and failed:
        on_progress("explaining, detections", 0, 0)
        cause = _explain_found(suspect, live, shown, inside)
        if cause is not None:
            causes = [cause]
            departure = None if cause.kind in {"ties", "rounding"} else Departure(cause.stage)
    return Explanation(
        departure,
        causes,
        () if inside is None else inside.trail,
        [one.name for one in shown],
        time.perf_counter() - started,
    )


def _explain_found(
    suspect: Suspect, live: LiveDetector, shown: Sequence[Shown], inside: InsideFound | None
) -> Cause | None:
    """Why detections differ although nothing before them does, as far as it can be seen."""
    found, ours = [one.found for one in shown], [one.live for one in shown]
    base = mean_distance(ours, found)
    if base <= SAME:
        return None
    alone = [suspect.detect([one.image])[0] for one in shown]
    if mean_distance(ours, alone) <= SAME:
        return Cause("graph", "batch", "the artefact errs in batches only: alone it finds what PyTorch finds")
    if suspect.prepare is None:
        size, images = (live.spec.width, live.spec.height), [one.image for one in shown]
        cause = explain_detections(found, images, size, lambda array, image: _detect(live, array, image), live.frame)
        if cause is not None:
            return cause
    dense = [_dense(live, one.array) for one in shown] if inside is None else inside.dense
    rounds = inside is not None and inside.precision != "float32"

    def suppress(thresholds: Thresholds) -> list[Found]:
        rows = zip(dense, shown, strict=True)
        return [_suppressed(boxes, scores, one.way_back, thresholds, live) for (boxes, scores), one in rows]

    cause = explain_suppression(found, live.thresholds, suppress, REPRODUCES * base if rounds else SAME)
    if cause is not None and cause.kind == "suppression":
        return cause
    if cause is None and rounds and inside is not None:
        return Cause(
            "rounding",
            "decode",
            f"the rounding of {inside.precision} adds up from layer to layer: no tensor departs by more than it "
            "explains, and no single layer makes half of the difference; keep more of the network in higher precision",
            {"distance": base},
        )
    tied = _explain_ties(live, shown)
    if tied is not None or inside is not None:
        return tied or cause
    return Cause(
        "unknown",
        "unknown",
        f"its detections differ ({base:.3g}; 0 equal, 1 nothing in common), its inside cannot be seen, and no other "
        "preprocessing or suppression reproduces them",
        {"distance": base},
    )


def _explain_ties(live: LiveDetector, shown: Sequence[Shown]) -> Cause | None:
    """Near-equal numbers between which rounding decides, where most of what is unmatched comes from them."""
    names = [one.name for one in shown]
    pictures = apart(names, [one.live for one in shown], [one.found for one in shown], live.thresholds)
    lone = [one for picture in pictures for one in picture.lone]
    tied = sum(bool(one.cause) for one in lone)
    if 2 * tied <= len(lone):
        return None
    return Cause(
        "ties",
        "suppression",
        f"{tied} of {len(lone)} unmatched detections lost to one of nearly the same score, to the floor or to a full "
        "table: rounding decides between them",
        {"unmatched": len(lone), "tied": tied},
    )


def _shown(one: Seen, live: LiveDetector) -> Shown:
    array, way_back = live.frame(one.image, live.spec.width, live.spec.height)
    pixels = np.ascontiguousarray(array.transpose(2, 0, 1))
    return Shown(one.name, one.image, one.live, one.found, pixels, way_back)


def _dense(live: LiveDetector, array: NDArray[np.uint8]) -> Dense:
    images = torch.from_numpy(array)[None].to(live.device)
    with torch.inference_mode():
        output = live.head(live.backbone(live.backbone.normalise(images)))
        scores = detection_scores(output.logits, output.quality)
    return output.boxes[0].cpu().numpy(), scores[0].cpu().numpy()


def _detect(live: LiveDetector, array: NDArray[np.uint8], image: Image.Image) -> Found:
    """PyTorch on an input ``[H, W, 3]`` that was made of a picture in some way, taken for the one it should be."""
    boxes, scores = _dense(live, np.ascontiguousarray(array.transpose(2, 0, 1)))
    _, way_back = live.frame(image, live.spec.width, live.spec.height)
    return _suppressed(boxes, scores, way_back, live.thresholds, live)


def _suppressed(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    way_back: WayBack,
    thresholds: Thresholds,
    live: LiveDetector,
) -> LiveDetections:
    size = live.spec.height, live.spec.width
    kept, values, labels = hard_nms(torch.from_numpy(boxes), torch.from_numpy(scores), thresholds, size=size)
    original = way_back.to_original(kept.numpy())
    seen = has_area(original)
    return LiveDetections(original[seen], values.numpy()[seen], labels.numpy()[seen])
