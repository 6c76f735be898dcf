"""Datasets as commands read them: with a spinner, and with remarks on what was repaired or left out."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detheads.cli.output import PlainConsole, remark

if TYPE_CHECKING:
    from detheads.data import Dataset

DatasetFolder = Annotated[Path, typer.Argument(metavar="DATASET", help="A dataset's folder, in any known layout.")]
SplitName = Annotated[str | None, typer.Option("--split", help="The split; the training split without it.")]

_SHOWN = 20
"""Left-out files that are listed; thousands of lines would hide the rest of the output."""


def read_split(folder: Path, split: str | None = None, *, skip_bad: bool = False) -> "Dataset":
    """Read one split and print the reader's remarks; large annotation files take a while and tell no count beforehand.

    Raises:
        UserError: as :func:`detheads.data.read_dataset`.
    """
    from detheads.data import read_dataset

    with PlainConsole(stderr=True).status("reading annotations"):
        dataset = read_dataset(folder, split, skip_bad=skip_bad)
    for sentence in dataset.remarks:
        remark(sentence)
    remark_skipped(dataset.skipped)
    return dataset


def require_output(folder: Path) -> None:
    """Find out before the work whether ``folder`` can become a new dataset.

    Raises:
        UserError: when it is not empty or cannot be written.
    """
    from detheads.foundation.atomic import try_output
    from detheads.foundation.claims import require_new

    require_new(folder)
    try_output(folder, folder=True)


def remark_skipped(skipped: Mapping[str, str]) -> None:
    """One remark with the count and the list of what was left out; none when nothing was."""
    if not skipped:
        return
    lines = [f"left out {len(skipped)} that cannot be used:"]
    lines += [f"  {name}: {reason.rstrip('.')}." for name, reason in list(skipped.items())[:_SHOWN]]
    if len(skipped) > _SHOWN:
        lines.append(f"  and {len(skipped) - _SHOWN} more.")
    remark(*lines)
