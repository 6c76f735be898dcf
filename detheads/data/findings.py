"""What is said about a dataset as a whole."""

from collections.abc import Iterable
from dataclasses import dataclass

from detheads.data.parsed import Severity


@dataclass(frozen=True)
class Finding:
    """One judgement: an *error* stops training or evaluation, a *warning* is a likely mistake, a *note* a remark."""

    severity: Severity
    kind: str
    sentence: str
    count: int
    """How many boxes, pictures or classes it is about."""


def some(names: Iterable[str], most: int = 4) -> str:
    """The first names, and how many more there are: "'a', 'b' and 7 more"."""
    known = list(names)
    listed = ", ".join(map(repr, known[:most]))
    return listed if len(known) <= most else f"{listed} and {len(known) - most} more"


def counted(count: int, noun: str) -> str:
    """ "1 picture", "2 pictures", "2 boxes"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith('x') else 's'}"
