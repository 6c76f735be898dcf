"""How far an artefact may be from PyTorch: the limits of the gate, by precision, and what a user changes of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from detheads.foundation.errors import UserError
from detheads.foundation.manifest import Precision

MAP_DROPS: Final[Mapping[Precision, float]] = {
    "fp32": 0.001,
    "fp16": 0.003,
    "bf16": 0.003,
    "int8": 0.005,
    "mixed": 0.005,
}
"""Tolerance of the mAP difference in AP units (0..1), when none is asked for."""

MATCHED: Final[Mapping[Precision, float]] = {"fp32": 0.99, "fp16": 0.95, "bf16": 0.85, "int8": 0.60, "mixed": 0.60}
"""Share of detections that must have a counterpart (IoU 0.75), when none is asked for. Without it two unlike detectors
of equal mAP would pass. Measured with FCOS heads on EfficientNet-Lite0, on 127 images of 7 classes (AP 0.158) and on
350 of one (0.212): FP32 1.00 and 1.00; BF16 0.904 (AP moved by 0.0015); INT8 of all layers 0.80 (0.0005) and 0.76
(0.0017); a careless INT8 of the convolutions alone 0.24 (0.054, refused)."""

MULTIPLES: Final[Mapping[str, float]] = {"AP50": 3, "AP75": 5, "small": 5, "medium": 5, "large": 5, "class": 10}
"""What the other figures may differ by, in tolerances of the mAP, when nothing else is asked for. Each is a mean of
fewer terms than the mAP (one IoU of ten, the objects of one size, one class of all) and moves further by chance. On the
127 images BF16 moved AP by 0.0015, AP75 by 0.0124, the AP of large objects by 0.0105 and that of a class (33 boxes) by
0.0075; INT8 moved AP by 0.0005 and AP50 by 0.0121."""


@dataclass(frozen=True)
class Limits:
    """The limits of one proof.

    Attributes:
        drops: largest allowed ``live - artefact`` in AP units, 0..1, of ``AP`` and of each name of ``MULTIPLES``.
        gains: largest allowed ``artefact - live``: the same, but not below what is usual for the precision. Who asks
            for less loss does not ask for less luck.
        matched: smallest allowed share of detections with a counterpart on the other side.
    """

    drops: Mapping[str, float]
    gains: Mapping[str, float]
    matched: float

    @classmethod
    def of(
        cls,
        precision: Precision,
        max_map_drop: float | None = None,
        min_matched: float | None = None,
        asked: Mapping[str, float] | None = None,
    ) -> "Limits":
        """The usual limits of a precision but for those that are asked for.

        Args:
            max_map_drop: of the mAP; the other limits are multiples of it.
            min_matched: of the share of matched detections.
            asked: further limits by the names of ``MULTIPLES``.
        """
        usual = _multiplied(MAP_DROPS[precision])
        drops = (usual if max_map_drop is None else _multiplied(max_map_drop)) | dict(asked or {})
        gains = {name: max(limit, usual[name]) for name, limit in drops.items()}
        return cls(drops, gains, MATCHED[precision] if min_matched is None else min_matched)

    def told(self) -> str:
        """The limits for a reader."""
        drops = ", ".join(f"{name} {limit:g}" for name, limit in self.drops.items())
        return f"differences of at most {drops}; matched detections at least {100 * self.matched:g} %"


def _multiplied(drop: float) -> dict[str, float]:
    """All limits that go with a tolerance of the mAP."""
    return {"AP": drop} | {name: min(1.0, times * drop) for name, times in MULTIPLES.items()}


def parse_limits(texts: Sequence[str]) -> dict[str, float]:
    """``["AP50=0.01", "class=0.05"]`` as limits by name.

    Raises:
        UserError: when a text is not of that form, a name is unknown or comes twice, or a limit is not in 0..1.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            limit = float(value)
        except ValueError:
            limit = -1.0
        if name not in MULTIPLES or not equals or not 0 <= limit <= 1:
            raise UserError(
                f"--limit takes NAME=VALUE with a name of {', '.join(MULTIPLES)} and a value in AP units from 0 to 1, "
                f"such as class=0.05, not {text!r}; the mAP has --max-map-drop."
            )
        if name in found:
            raise UserError(f"--limit gives {name} twice; give it once.")
        found[name] = limit
    return found
