"""What must hold for every input whatsoever: an answer or one sentence, within ten seconds and a gigabyte."""

import contextlib
import io
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from detheads.cli.main import run
from detheads.foundation.errors import UserError

SECONDS = 10
"""Of computing. What waits for ever is stopped after six times that on the clock, which a busy machine needs."""
MEMORY = 1_000_000_000
CASES = int(os.environ.get("DETHEADS_FUZZ_CASES", "0"))
"""Cases in all targets together, from ``make fuzz``; a few hundred without it."""


FOUND: dict[str, str] = {}
"""By the place of the fault: a case that shows it. A long run goes on after a fault, to find the others too."""
_altered: list[object] = []


class TooLongError(BaseException):
    """Not an Exception, so that no handler in the program takes it for a mistake of the user."""


def share(weight: float, *, by_default: int) -> int:
    """Cases of one target: its share of all, or the small budget of the test suite."""
    return max(1, round(CASES * weight)) if CASES else by_default


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Fail when the block takes too long or this process grows too large."""
    before = _peak()

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLongError

    timers = {signal.SIGALRM: (signal.ITIMER_REAL, 6 * SECONDS), signal.SIGPROF: (signal.ITIMER_PROF, SECONDS)}
    previous = {number: signal.signal(number, stop) for number in timers}
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    try:
        yield
    except TooLongError:
        raise AssertionError(f"took more than {SECONDS} seconds") from None
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, previous[number])
    grown = _peak() - before
    assert grown < MEMORY, f"took {grown / 1e9:.1f} GB"


@contextlib.contextmanager
def _noted() -> Iterator[None]:
    """In a long run, note a fault and go on."""
    try:
        yield
    except Exception as error:
        if not CASES:
            raise
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/tests/" not in frame.filename]
        own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
        place = f"{own[-1].filename}:{own[-1].lineno}" if own else "an answer"
        shown = "".join(traceback.format_exception(error)[-6:])
        FOUND.setdefault(f"{type(error).__name__} at {place}", f"{_altered}\n{shown}")


def survives(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function that may return anything or raise UserError, and nothing else."""
    with _noted(), limits(), contextlib.suppress(UserError):
        function(*arguments)


def answers(*words: object) -> None:
    """Run a command line with ``--json``: exit code 0, 1 or 2, one JSON value on standard output, no traceback."""
    out, errors = io.StringIO(), io.StringIO()
    with _noted():
        try:
            with limits(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
                code = run([*map(str, words), "--json"])
            assert code in {0, 1, 2}, code
            value = json.loads(out.getvalue())
            sentence = value.get("error") if code and isinstance(value, dict) else None
            assert sentence is None or errors.getvalue().splitlines()[-1].startswith("error: ")
            assert "Traceback" not in errors.getvalue()
        except Exception:
            _altered.insert(0, (words, errors.getvalue()[-600:]))
            raise


@contextlib.contextmanager
def replaced(path: Path, data: bytes) -> Iterator[None]:
    """The file with other content for a while."""
    before = path.read_bytes()
    path.write_bytes(data)
    _altered[:] = [path.name, data[:3000]]
    try:
        yield
    finally:
        path.write_bytes(before)


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
