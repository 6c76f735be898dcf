"""Whether an artefact is given what PyTorch is given: its inputs held against ours, or guessed from its detections."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detheads.export.explain.distance import REPRODUCES, SAME, mean_distance
from detheads.export.explain.explanation import Cause
from detheads.export.explain.variants import Variant, variants
from detheads.export.matching import Found
from detheads.export.profiles.frames import Frame
from detheads.foundation.geometry import letterbox_image

Size = tuple[int, int]
"""Width and height of the input."""


def explain_inputs(
    found: Sequence[NDArray[Any]], images: Sequence[Image.Image], size: Size, frame: Frame = letterbox_image
) -> Cause | None:
    """Why the inputs that an artefact makes of some pictures are not ours; None where they are.

    Args:
        found: ``[H, W, 3]`` each, RGB 0..255.
        frame: how PyTorch's input is made.
    """
    wanted = [frame(image, *size)[0] for image in images]
    if any(np.shape(array) != one.shape for array, one in zip(found, wanted, strict=True)):
        shapes = sorted({np.shape(array) for array in found})
        return Cause("letterbox", "input", f"the artefact makes inputs of shape {shapes}, not {wanted[0].shape}")
    base = _apart(found, wanted)
    if base == 0:
        return None
    left = [(_apart(found, [variant.apply(image, *size) for image in images]), variant) for variant in variants(frame)]
    best, variant = min(left, key=lambda one: one[0])
    if best > REPRODUCES * base:
        said = f"the artefact makes its input in an unknown way: it is {base:.3g} grey levels a pixel off ours"
        return Cause("unknown", "input", said, {"distance": base})
    return _named(variant, best, base, f"its inputs are {base:.3g} grey levels a pixel off ours")


def explain_detections(
    found: Sequence[Found],
    images: Sequence[Image.Image],
    size: Size,
    detect: Callable[[NDArray[np.uint8], Image.Image], Found],
    frame: Frame = letterbox_image,
) -> Cause | None:
    """The preprocessing with which PyTorch finds what an artefact finds, for artefacts that show nothing else.

    Args:
        found: of each image, by the artefact.
        detect: PyTorch on an input ``[H, W, 3]`` made of a picture.
    """
    wanted = [frame(image, *size)[0] for image in images]
    base = mean_distance([detect(array, image) for array, image in zip(wanted, images, strict=True)], found)
    if base <= SAME:
        return None
    left = []
    for variant in variants(frame):
        arrays = [variant.apply(image, *size) for image in images]
        if all(np.array_equal(array, one) for array, one in zip(arrays, wanted, strict=True)):
            continue
        detected = [detect(array, image) for array, image in zip(arrays, images, strict=True)]
        left.append((mean_distance(detected, found), variant))
    best, variant = min(left, key=lambda one: one[0])
    if best > REPRODUCES * base:
        return None
    return _named(variant, best, base, f"its detections are {base:.3g} off PyTorch's (0: equal, 1: none in common)")


def _named(variant: Variant, best: float, base: float, told: str) -> Cause:
    left = "exactly" if best < 1e-3 * base else f"but for {best / base:.0%}"
    sentence = f"the artefact {variant.said}: {told}, and made like that ours are the same, {left}"
    return Cause(variant.kind, "input", sentence, {"distance": base, "distance_with_it": best})


def _apart(first: Sequence[NDArray[Any]], second: Sequence[NDArray[Any]]) -> float:
    pairs = zip(first, second, strict=True)
    return float(np.mean([np.abs(one.astype(np.float32) - other.astype(np.float32)).mean() for one, other in pairs]))


def explain_normalisation(
    pictures: Sequence[NDArray[np.uint8]],
    normalised: Sequence[NDArray[np.float32]],
    mean: Sequence[float],
    std: Sequence[float],
) -> Cause:
    """What a graph does to a picture before its backbone, fitted as a linear map of the three channels.

    Args:
        pictures, normalised: ``[3, H, W]`` each, before and after.
        mean, std: what is meant, of 0..1.
    """
    before = np.concatenate([picture.reshape(3, -1) for picture in pictures], axis=1).astype(np.float64)
    after = np.concatenate([picture.reshape(3, -1) for picture in normalised], axis=1).astype(np.float64)
    rows = np.vstack([before, np.ones(before.shape[1])]).T  # [P, 4]
    fitted = np.linalg.lstsq(rows, after.T, rcond=None)[0].T  # [3, 4]: what each channel is made of
    evidence = {"fitted": np.round(fitted, 6).tolist()}
    factors, sources = np.abs(fitted[:, :3]).max(axis=1), np.abs(fitted[:, :3]).argmax(axis=1)
    offsets = fitted[:, 3] / factors
    if sorted(sources.tolist()) == [0, 1, 2] and sources.tolist() != [0, 1, 2]:
        order = "".join("RGB"[source] for source in sources)
        return Cause("channel order", "normalisation", f"the graph swaps the colour channels ({order})", evidence)
    if np.allclose(factors, 1, rtol=0.01) and np.abs(offsets).max() < 1:
        said = "is left out: the backbone is given 0..255"
    elif np.allclose(factors, 1 / 255, rtol=0.01) and np.abs(offsets).max() < 1:
        said = "is only the division by 255: mean and standard deviation are left out"
    else:
        scales, means = 1 / (255 * factors), -offsets / 255
        said = (
            f"uses mean {_three(means)} and standard deviation {_three(scales)} where {_three(mean)} and "
            f"{_three(std)} are meant"
        )
    return Cause("normalisation", "normalisation", f"normalisation {said}", evidence)


def _three(values: Sequence[float] | NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in values) + ")"
