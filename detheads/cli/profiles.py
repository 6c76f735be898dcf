"""The options of host profiles, and what is shown of them."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from detheads.export.report import VerificationReport

ProfileOption = Annotated[
    list[str] | None,
    typer.Option("--profile", help="Make a graph for a host too: triton, frigate, deepstream, ...; repeatable."),
]
RawOption = Annotated[
    bool, typer.Option("--raw", help="Make a graph without suppression too, for hosts that bring their own.")
]


def wanted_profiles(names: list[str] | None, raw: bool) -> tuple[str, ...]:
    """The profiles that the two options ask for.

    Raises:
        UserError: for an unknown one.
    """
    from detheads.export.profiles import require_names

    return require_names([*(names or []), *(["raw"] if raw else [])])


def print_profiles(console: Console, report: "VerificationReport") -> None:
    """A line for each profile: whether it holds on its host's pictures, and what these cost."""
    for each in report.profiles:
        console.print(
            f"profile {each.entry.name}: {'FAILED' if each.reasons else 'holds'}, mAP {each.statistics.AP:.4f} on the "
            f"host's pictures (PyTorch {each.live.AP:.4f}; with our letterbox {each.letterboxed.AP:.4f})"
        )
