"""What a conversion is asked for, and what it gives."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import onnx

from detheads.export.precision.calibration import Calibration
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import Precision

METHODS = ("minmax", "percentile", "entropy")
"""How an INT8 range follows from what was seen: all of it, 99.999 % of it, or the cut that loses least information."""


@dataclass(frozen=True)
class Plan:
    """The precision that is wanted.

    Attributes:
        calibration: pictures that the graph's ranges are measured on; every precision but fp32 needs them.
        keep: keep the parts of the declared policy in FP32, and those whose measured range needs it. Without it
            everything is converted: an experiment that shows what the policy is for.
        method: one of ``METHODS``.
        fallback: return the blocks that INT8 harms most to FP32 until the judge is content.
        engine: INT8 in the form that TensorRT takes, not in the one that CPUs are fast with.

    Raises:
        UserError: when there is no such method.
    """

    precision: Precision = "fp32"
    calibration: Calibration | None = None
    keep: bool = True
    method: str = "minmax"
    fallback: bool = True
    engine: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"INT8 ranges are measured by {', '.join(METHODS)}, not by {self.method!r}.")

    def pictures(self) -> Calibration:
        """The calibration.

        Raises:
            UserError: when there is none.
        """
        if self.calibration is None:
            raise UserError(
                f"--precision {self.precision} measures the graph's ranges on pictures; give --calibration FOLDER."
            )
        return self.calibration


class Verdict(Protocol):
    """What a judge says of a candidate. AP is 0..1."""

    @property
    def passed(self) -> bool: ...

    @property
    def ap(self) -> float: ...

    @property
    def reasons(self) -> list[str]: ...


Judge = Callable[[onnx.ModelProto], Verdict]
"""Runs the whole proof on a dense graph, with suppression joined to it."""


@dataclass(frozen=True)
class Converted:
    """A dense graph in another precision, with the dense graph's input and outputs.

    Attributes:
        details: JSON values for ``precision.json`` of the bundle: what was kept, measured and tried.
        remarks: what a user should know of it, one sentence each, without its full stop.
    """

    model: onnx.ModelProto
    details: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
