"""Datasets as commands read them: with a spinner, and with remarks on what was repaired or left out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detheads.cli.output import PlainConsole, remark
from detheads.data.foreign import known_formats
from detheads.foundation.errors import UserError, suggest

if TYPE_CHECKING:
    from detheads.data import Dataset

DatasetFolder = Annotated[Path, typer.Argument(metavar="DATASET", help="A dataset's folder, in any known layout.")]
SplitName = Annotated[str | None, typer.Option("--split", help="The split; the training split without it.")]


def _known_format(name: str | None) -> str | None:
    if name is not None and name not in known_formats():
        known = ", ".join(map(repr, known_formats()))
        raise typer.BadParameter(f"{name!r} is not one of {known}.{suggest(name, known_formats())}")
    return name


ForeignFormat = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="FORMAT",
        callback=_known_format,
        help=f"Another tool's format: {', '.join(known_formats())}; without it, the layout is found out.",
    ),
]

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
    _remarks(dataset)
    return dataset


def read_foreign_splits(
    path: Path, format_name: str, split: str | None = None, *, skip_bad: bool = False
) -> "list[Dataset]":
    """Read the splits of another tool's dataset, or one of them, and print the reader's remarks.

    Raises:
        UserError: as :func:`detheads.data.foreign.read_foreign`, and when there is no such split.
    """
    from detheads.data.foreign import read_foreign

    with PlainConsole(stderr=True).status("reading annotations"):
        parts = read_foreign(path, format_name, skip_bad=skip_bad)
    for part in parts:
        _remarks(part)
    chosen = [part for part in parts if split in {None, part.split}]
    if not chosen:
        raise UserError(f"{path} has no split {split!r}; it has {', '.join(part.split for part in parts)}.")
    return chosen


def _remarks(dataset: "Dataset") -> None:
    for sentence in dataset.remarks:
        remark(sentence)
    remark_skipped(dataset.skipped)


def require_output(folder: Path) -> None:
    """Find out before the work whether ``folder`` can become a new dataset.

    Raises:
        UserError: when it is not empty or cannot be written.
    """
    from detheads.foundation.atomic import try_output
    from detheads.foundation.claims import require_new

    require_new(folder)
    try_output(folder, folder=True)


def remark_pictures(sentences: Sequence[str]) -> None:
    """Remarks on the pixels or frames of pictures: the first, and how many more there are."""
    if sentences:
        more = f" ({len(sentences) - 1} more: see 'detheads data validate')" if len(sentences) > 1 else ""
        remark(f"{sentences[0].rstrip('.')}{more}.")


def remark_skipped(skipped: Mapping[str, str]) -> None:
    """One remark with the count and the list of what was left out; none when nothing was."""
    if not skipped:
        return
    lines = [f"left out {len(skipped)} that cannot be used:"]
    lines += [f"  {name}: {reason.rstrip('.')}." for name, reason in list(skipped.items())[:_SHOWN]]
    if len(skipped) > _SHOWN:
        lines.append(f"  and {len(skipped) - _SHOWN} more.")
    remark(*lines)
