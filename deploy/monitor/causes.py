"""What has probably happened, from the measures that have drifted: one sentence for each cause.

One cause moves several measures: in a dark picture contrast and colours are weaker too, and neither is told again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from detheads.deploy.monitor.drift import Drift
from detheads.deploy.monitor.measures import BRIGHTNESS, COLOUR, CONTRAST, COUNT, DETAIL, SCORE, SIZE, WARMTH

OF_LIGHT: Final = (BRIGHTNESS, CONTRAST, COLOUR, WARMTH)
BLACK: Final = 4.0
"""Brightness below which nothing is to be seen: uint8 values that were scaled to 0..1 before have 0 or 1."""
GREY: Final = 2.0
"""Colour below which a picture is grey: coding as JPEG alone gives a grey picture 0 to 1."""
MIRRORED: Final = 0.4
"""Red and blue are swapped where warmth is nearer to its mirror image than this share of its distance: 0.18 in swapped
photographs, 0.53 in pictures of an aquarium, which are truly blue."""
SAME_PICTURES: Final = "; the pictures themselves look as they did, so other objects or scenes are seen"


@dataclass(frozen=True)
class Cause:
    """A warning.

    Attributes:
        kind: a word for programs.
        sentence: for a reader.
    """

    kind: str
    sentence: str


def causes(drifts: Mapping[str, Drift]) -> list[Cause]:
    """What the drifted measures say together, what concerns preprocessing first."""
    changed = {name: drift for name, drift in drifts.items() if drift.drifted}
    brightness = changed.get(BRIGHTNESS.name)
    if brightness is not None and brightness.now < BLACK:
        values = _values(brightness, "brightness", 0)
        return [
            Cause(
                "black",
                f"the pictures are black ({values}): the lens is covered, it is night, or values were scaled to 0..1 "
                "before; give uint8 of 0..255",
            )
        ]
    found = list(_of_pictures(changed))
    remark = "" if found else SAME_PICTURES
    return found + [Cause(cause.kind, cause.sentence + remark) for cause in _of_detections(changed)]


def _of_pictures(changed: Mapping[str, Drift]) -> Iterator[Cause]:
    left = {
        name: changed[name] for name in (BRIGHTNESS.name, CONTRAST.name, COLOUR.name, WARMTH.name) if name in changed
    }
    colour, warmth = left.get(COLOUR.name), left.get(WARMTH.name)
    if colour is not None and colour.now < GREY:
        del left[COLOUR.name]
        left.pop(WARMTH.name, None)
        yield Cause(
            "grey",
            f"the pictures are grey ({_values(colour, 'colour', 0)}): a camera in night mode, or they were decoded "
            "without colours",
        )
    elif warmth is not None and warmth.mirrored < MIRRORED * warmth.distance:
        del left[WARMTH.name]
        yield Cause(
            "swapped",
            f"red and blue are swapped (red minus blue {warmth.now:+.0f}, {warmth.before:+.0f} at export): pictures "
            "come as BGR; give RGB, or say channels='BGR'",
        )
    if (brightness := left.pop(BRIGHTNESS.name, None)) is not None:
        _explain(left, brightness, (CONTRAST.name, COLOUR.name, WARMTH.name))
        how = "brighter" if brightness.higher else "darker"
        yield Cause(
            how,
            f"the pictures are {how} ({_values(brightness, 'brightness', 0)}): other light or exposure, or values that "
            "were scaled before",
        )
    if (contrast := left.pop(CONTRAST.name, None)) is not None:
        _explain(left, contrast, (COLOUR.name, WARMTH.name))
        how, why = (
            ("harder", "direct light") if contrast.higher else ("flatter", "haze, a dirty lens, little structure")
        )
        yield Cause(how, f"the pictures are {how} ({_values(contrast, 'contrast', 0)}): {why}")
    if left:
        about = [
            _values(left[name], word, 0)
            for name, word in ((COLOUR.name, "colour"), (WARMTH.name, "red minus blue"))
            if name in left
        ]
        yield Cause("colours", f"the colours are others ({'; '.join(about)}): white balance, light, or other scenes")
    if (detail := changed.get(DETAIL.name)) is not None:
        how, why = (
            ("noisier", "noise, sharpening, or finer structures")
            if detail.higher
            else ("blurred", "out of focus, a dirty lens, strong compression, or enlarged from small pictures")
        )
        yield Cause(how, f"the pictures are {how} ({_values(detail, 'detail', 2)}): {why}")


def _explain(left: dict[str, Drift], cause: Drift, names: tuple[str, ...]) -> None:
    """Drop what grows and shrinks with the cause, as colours do with the light."""
    for name in names:
        if name in left and (abs(left[name].now) > abs(left[name].before)) == cause.higher:
            del left[name]


def _of_detections(changed: Mapping[str, Drift]) -> Iterator[Cause]:
    if (score := changed.get(SCORE.name)) is not None and not score.higher:
        yield Cause("uncertain", f"scores are lower (best of a picture {score.now:.2f}, {score.before:.2f} at export)")
    if (count := changed.get(COUNT.name)) is not None:
        how = "more" if count.higher else "fewer"
        now, before = (2**value - 1 for value in (count.now, count.before))
        yield Cause(how, f"{how} objects are found ({now:.0f} in a picture, {before:.0f} at export)")
    if (size := changed.get(SIZE.name)) is not None:
        how, why = ("larger", "nearer") if size.higher else ("smaller", "farther away, or has a wider lens")
        now, before = (100 * 2**value for value in (size.now, size.before))
        yield Cause(
            how,
            f"boxes are {how} (side {now:.0f} % of the picture's, {before:.0f} % at export): the camera is {why}",
        )


def _values(drift: Drift, word: str, digits: int) -> str:
    now, before = (f"{value:.{digits}f}" for value in (drift.now, drift.before))
    if now == before:  # the middle stayed, what lies around it did not
        return f"{word} {now} in the middle as at export, and spread otherwise"
    return f"{word} {now}, {before} at export"
