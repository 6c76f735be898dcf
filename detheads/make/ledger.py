"""What a making has decided so far and how long its steps took, so that an interrupted one goes on as it began.

Run again, a making reads its decisions instead of deciding anew: measured times differ from run to run, and another
decision would leave the caches and runs there are unused. Nothing is written before :meth:`Ledger.keep`, so that a
making that is refused leaves nothing.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.reading import read_json

LEDGER_NAME = "decisions.json"


class _Written(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    asked: dict[str, Any]
    decisions: dict[str, Any]
    seconds: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]


class Ledger:
    """The decisions and times of one making.

    Attributes:
        seconds: by step, of all attempts together.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any]) -> None:
        """Open the ledger of a folder.

        Args:
            asked: JSON values of what the user asks for; decisions for another request are made anew.

        Raises:
            UserError: when it is damaged.
        """
        self._path, self._asked = folder / LEDGER_NAME, dict(asked)
        try:
            known = _Written.model_validate(read_json(self._path)) if self._path.is_file() else None
        except ValidationError:
            raise UserError(f"{self._path} is damaged; delete it, and the choices are made anew.") from None
        if known is None or known.asked != self._asked:
            known = _Written(asked=self._asked, decisions={}, seconds={})
        self._decisions, self.seconds = dict(known.decisions), dict(known.seconds)
        self._kept = False
        self._running: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds of all steps, the one that runs now included."""
        running = 0.0 if self._running is None else time.monotonic() - self._running
        return sum(self.seconds.values()) + running

    def keep(self) -> None:
        """From now on decisions and times are written down."""
        self._kept = True
        self._write()

    def decided(self, name: str, decide: Callable[[], Any]) -> Any:
        """What was decided, as JSON values; ``decide`` is called where nothing was."""
        if name not in self._decisions:
            self._decisions[name] = decide()
            self._write()
        return self._decisions[name]

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count the time of a step, of one that fails or is interrupted too."""
        self._running = began = time.monotonic()
        try:
            yield
        finally:
            self._running = None
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - began, 2)
            self._write()

    def _write(self) -> None:
        if self._kept:
            written = _Written(asked=self._asked, decisions=self._decisions, seconds=self.seconds)
            atomic.write_json(self._path, written.model_dump())
