"""The time of each frame, in seconds since the first one, growing whatever a source says."""

from fractions import Fraction
from typing import Final

TICK: Final = Fraction(1, 90_000)
"""Least time between two frames: the clock of MPEG streams."""
ASTRAY: Final = 10
"""Seconds that a live stream's own clock may be off the time of arrival: more are a jump of that clock."""
BACK: Final = 1
"""Seconds by which a frame may be earlier than the one before: more mean a clock that was set, as in joined clips."""
USUAL: Final = Fraction(25)
"""Frames a second of a video that does not say."""


class Clock:
    """Times of frames.

    Args:
        rate: frames a second, for frames that have no time of their own; None where that is not known.
        live: frames arrive as time goes by, so that the time of arrival is right where their own clock is not.

    Attributes:
        last: the time of the last frame; None before the first.
    """

    def __init__(self, rate: Fraction | None, *, live: bool) -> None:
        self._period = 1 / (rate or USUAL)
        self._live = live
        self._origin: Fraction | None = None
        self._begin: float | None = None
        self.last: Fraction | None = None

    def restart(self) -> None:
        """The source begins anew, with a clock that has nothing to do with the one before."""
        self._origin = None

    def of(self, own: Fraction | None, arrival: float) -> Fraction:
        """The time of a frame.

        Args:
            own: what the frame says, in seconds from anywhere.
            arrival: when it came, in seconds from anywhere.
        """
        self._begin = arrival if self._begin is None else self._begin
        if self._live:
            due = Fraction(arrival - self._begin).limit_denominator(TICK.denominator)
        else:
            due = Fraction(0) if self.last is None else self.last + self._period
        if own is None:
            found = due
        else:
            if self._origin is None or self._jumps(own - self._origin, due):
                self._origin = own - due
            found = own - self._origin
        if self.last is not None:
            found = max(found, self.last + TICK)
        self.last = found
        return found

    def _jumps(self, found: Fraction, due: Fraction) -> bool:
        """Whether the source's clock was set."""
        return found < (self.last or 0) - BACK or (self._live and abs(found - due) > ASTRAY)
