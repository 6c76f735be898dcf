"""Options of ``deploy run`` that are for videos, streams and cameras alone."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from detheads.foundation.errors import UserError

_PANEL = "Videos, streams and cameras"

TrackOption = Annotated[
    bool, typer.Option("--track", help="Number the objects over the frames.", rich_help_panel=_PANEL)
]
EveryOption = Annotated[int, typer.Option(min=1, help="Run one of so many frames.", rich_help_panel=_PANEL)]
FpsOption = Annotated[
    float | None, typer.Option(min=0.001, help="Run at most so many frames of a second.", rich_help_panel=_PANEL)
]
MaxFramesOption = Annotated[int | None, typer.Option(min=1, help="End after so many frames.", rich_help_panel=_PANEL)]
SecondsOption = Annotated[float | None, typer.Option(min=0.001, help="End after this time.", rich_help_panel=_PANEL)]
LiveOption = Annotated[
    Literal["newest", "all"],
    typer.Option(
        help="Of a live source faster than the model, run the newest frames and drop older ones, or run all.",
        rich_help_panel=_PANEL,
    ),
]
ReconnectOption = Annotated[
    float, typer.Option(min=0, help="Seconds in which a lost live source must come back.", rich_help_panel=_PANEL)
]
TimeoutOption = Annotated[
    float, typer.Option(min=0.1, help="Seconds in which a live source must send something.", rich_help_panel=_PANEL)
]


def refuse_for(inputs: str, options: Mapping[str, Any]) -> None:
    """Refuse options that would do nothing.

    Args:
        inputs: what the run is given, such as "pictures".
        options: name of an option -> its value; what is no option's default is true.

    Raises:
        UserError: for the first that is true.
    """
    for name, value in options.items():
        if value:
            raise UserError(f"{name} does nothing for {inputs}; leave it out.")
