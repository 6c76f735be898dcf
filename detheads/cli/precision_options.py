"""Options of ``detheads export`` that decide what a graph computes in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from detheads.foundation.errors import UserError
from detheads.foundation.manifest import Precision

if TYPE_CHECKING:
    from detheads.export.conversion import Conversion

PrecisionOption = Annotated[
    str, typer.Option(help=f"What the graph computes in before suppression: {', '.join(get_args(Precision))}.")
]
CalibrationOption = Annotated[
    str | None,
    typer.Option(
        help="Pictures that ranges are measured on: a folder, DATASET:SPLIT, or a .npy file.",
        show_default="the training split of --data",
    ),
]
RangeImagesOption = Annotated[int, typer.Option(min=1, help="Calibration pictures that are chosen.")]
RangeMethodOption = Annotated[
    str, typer.Option(help="How INT8 ranges follow from what is measured: minmax, percentile or entropy.")
]
FallbackOption = Annotated[
    bool, typer.Option("--no-fallback", help="No block returns from INT8 to FP32 when the proof refuses.")
]


def parse_conversion(
    precision: str, calibration: str | None, images: int, method: str, no_fallback: bool, data: Path | None
) -> "Conversion":
    """The request that the options make.

    Raises:
        UserError: when the precision is unknown.
    """
    from detheads.export.conversion import Conversion

    known: tuple[Precision, ...] = get_args(Precision)
    for name in known:
        if precision == name:
            return Conversion(name, calibration, images, data, method, not no_fallback)
    raise UserError(f"--precision is {', '.join(known)}, not {precision!r}.")
