"""A head without its idea: what a claim is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Metric = Literal["AP", "AP50", "APs", "false_detections", "precision"]
"""What a claim is about: a COCO statistic; false detections an image, or the precision, at a recall of one half."""


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
