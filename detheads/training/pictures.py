"""Which pictures a head learned from, short enough for its checkpoint: figures on those say little of new ones."""

from collections.abc import Iterable

_DIGITS = 16
"""Of each SHA-256. That any two of a million pictures have these in common has odds of one in forty million."""


def written(digests: Iterable[str]) -> str:
    """The digests (hex SHA-256 of picture files) as text; empty ones, of caches that know none, are left out."""
    return "".join(sorted({digest[:_DIGITS] for digest in digests if digest}))


def among(known: str, digests: Iterable[str]) -> int:
    """How many of some pictures are among those that :func:`written` wrote."""
    seen = {known[start : start + _DIGITS] for start in range(0, len(known), _DIGITS)}
    return sum(digest[:_DIGITS] in seen for digest in digests)
