"""The pictures below folders, one after the other, in an order that only depends on what is there."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detheads.deploy.inputs import is_output
from detheads.foundation.errors import UserError, suggest
from detheads.foundation.images import IMAGE_SUFFIXES, OTHER_SUFFIXES, walk

Entry = tuple[int, str]
"""Number of the source, and the picture's path below it with ``/``; empty where the source is the picture."""


@dataclass
class PassedOver:
    """What a listing leaves out."""

    endings: Counter[str] = field(default_factory=Counter)
    """Pictures whose ending is not read: ending -> count."""
    drawn: int = 0
    """Pictures that an earlier run has drawn."""
    unreadable: list[str] = field(default_factory=list)
    """Folders that may not be entered."""

    def remarks(self) -> list[str]:
        """A sentence, without its full stop, for each kind of thing."""
        sentences = []
        if self.endings:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(self.endings.items()))
            sentences.append(f"pictures with other endings are left out ({kinds}); convert them to PNG or JPEG")
        if self.drawn:
            sentences.append(f"{self.drawn} pictures drawn by an earlier run are left out")
        if self.unreadable:
            more = f" and {len(self.unreadable) - 1} more" if len(self.unreadable) > 1 else ""
            sentences.append(f"{self.unreadable[0]}{more} cannot be read and is left out")
        return sentences


def require_sources(sources: Sequence[Path]) -> list[Path]:
    """Absolute paths of folders and pictures, of which none holds another one: a picture is run once.

    Raises:
        UserError: when one does not exist, or lies in another one.
    """
    places = [Path(os.path.abspath(source)) for source in sources]  # noqa: PTH100 - resolve() would follow links
    folders = set()
    for source, place in zip(sources, places, strict=True):
        if not place.exists():
            siblings = [entry.name for entry in place.parent.iterdir()] if place.parent.is_dir() else []
            raise UserError(f"{source} does not exist.{suggest(place.name, siblings)}")
        if place in folders:
            raise UserError(f"{source} is given twice; give it once.")
        folders.add(place)
    for source, place in zip(sources, places, strict=True):
        if outer := next((folder for folder in place.parents if folder in folders), None):
            raise UserError(f"{source} lies in {outer}, which is given, too; leave one of them out.")
    return places


def pictures(sources: Sequence[Path], passed: PassedOver) -> Iterator[Entry]:
    """List the pictures of sources; no more than one folder's names are in memory.

    Args:
        sources: see :func:`require_sources`.
        passed: is added to.
    """
    for number, source in enumerate(sources):
        if source.is_dir():
            yield from ((number, name) for name in _below(source, passed))
        else:
            yield number, ""


def _below(folder: Path, passed: PassedOver) -> Iterator[str]:
    seen, drawn = "", is_output(folder)
    for name in walk(folder, lambda error: passed.unreadable.append(str(error.filename))):
        parent, _, file = name.rpartition("/")
        stem, suffix = os.path.splitext(file)  # noqa: PTH122 - a Path for each of a million names is slow
        suffix = suffix.lower()
        if stem.startswith("."):
            continue
        if suffix in OTHER_SUFFIXES:
            passed.endings[suffix] += 1
        if suffix not in IMAGE_SUFFIXES:
            continue
        if parent != seen:
            seen, drawn = parent, _in_output(folder, parent)
        if drawn:
            passed.drawn += 1
        else:
            yield name


def _in_output(folder: Path, parent: str) -> bool:
    place = folder / parent
    return any(is_output(each) for each in (place, *place.parents) if each.is_relative_to(folder))
