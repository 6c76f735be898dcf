"""How long a making may take, as it is said on the command line."""

import math
import re
from dataclasses import dataclass

from detheads.foundation.errors import UserError

BEST = "best"
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


@dataclass(frozen=True)
class Budget:
    """Wall time; ``seconds`` is infinite for ``best``, where what helps is tried until nothing does any more."""

    text: str
    seconds: float

    @property
    def limited(self) -> bool:
        return math.isfinite(self.seconds)


def parse_budget(text: str) -> Budget:
    """``"10m"``, ``"1h"``, ``"1h30m"``, ``"90s"`` or ``"best"``.

    Raises:
        UserError: when it is neither, or no time at all.
    """
    said = text.strip().lower()
    if said == BEST:
        return Budget(BEST, math.inf)
    match = re.fullmatch(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", said)
    seconds = (
        sum(int(count or 0) * unit for count, unit in zip(match.groups(), _UNITS.values(), strict=True)) if match else 0
    )
    if not seconds:
        raise UserError(f"--budget takes a time such as 10m, 1h or 1h30m, or best, not {text[:80]!r}.")
    return Budget(said, seconds)


def span(seconds: float) -> str:
    """A time for a reader: ``"45 s"``, ``"12 minutes"``, ``"2.5 hours"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
