"""The one exception a user's mistake may raise, and the hint at a name that is nearly right."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right.

    The message is one sentence that says what is wrong, where, and what to do. The command line prints it
    without a traceback and exits with code 1.
    """


class MissingFileError(UserError):
    """A file that does not exist, for callers to whom its absence means something."""


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: `` Did you mean 'fcos'?``, or nothing when no known name is near.

    Case does not count, so ``Train.json`` finds ``train.json``.
    """
    by_folded = {candidate.casefold(): candidate for candidate in known}
    nearest = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.7)
    return f" Did you mean {by_folded[nearest[0]]!r}?" if nearest else ""
