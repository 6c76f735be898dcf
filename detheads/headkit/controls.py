"""A head without its idea: what a claim is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from detheads.headkit.options import to_text

Metric = Literal["AP", "AP50", "AP75", "APs", "APl", "false_detections", "precision"]
"""What a claim is about: a COCO statistic; false detections an image, or the precision, at a recall of one half."""


NEARLY = 0.05
"""The usual allowance of ideas that cost less: a point of AP of every twenty."""


@dataclass(frozen=True)
class Control:
    """One idea of a head, and how to turn it off while all else stays.

    Attributes:
        claim: what the idea is said to gain, in one sentence that a figure can contradict.
        options: of the head, that turn the idea off.
        metric: that the claim is about.
        allowance: share of the control's metric that may be lost while the claim still stands: for ideas that cost
            less and only have to do about as well.
    """

    claim: str
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    metric: Metric = "AP"
    allowance: float = 0.0

    def __str__(self) -> str:
        """The options as ``-O`` takes them: ``projected=false width=256``."""
        return " ".join(f"{name}={to_text(value)}" for name, value in self.options.items())
