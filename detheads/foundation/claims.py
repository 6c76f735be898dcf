"""Folders that one process writes: worked on in place (:func:`claimed`), or whole or absent (:func:`new_folder`).

Both hold a lock while their process lives (see :mod:`detheads.foundation.locks`): a second process is told so in one
sentence, and what a killed one left behind is cleared by the next. On a file system without locks two processes are not
kept apart, and a killed one's half files stay.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from detheads.foundation import atomic, locks
from detheads.foundation.errors import UserError
from detheads.foundation.reading import read_json

PATIENCE = 2.0
"""Seconds to wait for a lock: a process that was just killed is not gone at once."""
ASIDE = ".aside"
"""Ending of what is to be replaced, for the moment of the swap."""
LONGEST_VALUES = 80
"""Longest pair of differing values, in letters, that a sentence quotes."""


@dataclass(frozen=True)
class Kind:
    """A kind of folder that is worked on in place.

    Attributes:
        record: name of the JSON file in it that says what it holds.
        called: what it is, with its article, such as "a training run".
        activity: what a process does that works on it, such as "training in".
        way_out: what to do where the folder holds something else.
    """

    record: str
    called: str
    activity: str
    way_out: str = "choose another folder with -o"


@contextmanager
def claimed(
    folder: Path, kind: Kind, described: Mapping[str, Any], remarks: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Work on ``folder`` alone, and only when it is new or holds the same work.

    The folder is made and ``described | remarks`` recorded in it; a later run must be described alike and finds the
    half files of killed processes removed. A block that fails before it wrote anything leaves no folder and no record.

    Example::

        RUN = Kind("config.json", "a training run", "training in")
        with claimed(folder, RUN, {"training": asdict(config)}, {"torch_version": torch.__version__}) as recorded:
            ...  # write into the folder

    Args:
        described: JSON values that make it another work when they differ.
        remarks: JSON values that are recorded with them and never compared.

    Yields:
        What is recorded, by this run or an earlier one.

    Raises:
        UserError: another process works on the folder; it holds something else, or work that is described otherwise
            (the sentence names the first difference); it is a file.
    """
    existed = folder.exists()
    with only_process(folder, f"{kind.activity} {folder}") as locked:
        record = folder / kind.record
        begun = record.is_file()
        try:
            if begun:
                recorded = _same(folder, kind, described)
            else:
                if any(not item.name.startswith(".") for item in folder.iterdir()):
                    noun = kind.called.partition(" ")[2]
                    raise UserError(f"{folder} is not empty and holds no {noun}; {kind.way_out}.")
                recorded = _json({**described, **(remarks or {})})
                atomic.write_json(record, recorded)
            if locked:
                for pattern in (".*.partial", ".*.partial.*"):
                    locks.sweep(folder, pattern)
            yield recorded
        except BaseException:
            if not begun and {item.name for item in folder.iterdir()} <= {kind.record}:
                record.unlink(missing_ok=True)
                if not existed:
                    folder.rmdir()
            raise


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a hidden folder that becomes ``target``, which is new or empty, when the block ends without an error.

    Raises:
        UserError: as :func:`staged` with :func:`require_new`.
    """
    with staged(target, require_new) as stage:
        yield stage.folder
        stage.publish()


def require_new(target: Path) -> None:
    """Allow no folder but an empty one.

    Raises:
        UserError: when ``target`` exists and is not an empty folder.
    """
    if target.is_dir():
        if any(target.iterdir()):
            raise UserError(f"{target} is not empty; choose another folder or remove it first.")
    elif target.exists():
        raise UserError(f"{target} is a file; choose another folder.")


@dataclass(frozen=True)
class Stage:
    """A folder in the making.

    Attributes:
        folder: hidden, near the target; empty at first.
    """

    folder: Path
    _target: Path
    _require: Callable[[Path], None]

    def publish(self) -> None:
        """Put the folder in the target's place; what was there is removed.

        Raises:
            UserError: when the target has become one that may not be replaced.
        """
        self._require(self._target)
        if self._target.exists() and atomic.exchange(self.folder, self._target):
            return  # what was there is now what is left over
        aside = self.folder.with_suffix(ASIDE)
        if self._target.exists():
            self._target.rename(aside)
        try:
            self.folder.rename(self._target)
        except OSError:
            if aside.exists():
                aside.rename(self._target)
            raise
        if aside.exists():
            aside.rename(self.folder)  # now it is what is left over


@contextmanager
def staged(target: Path, require: Callable[[Path], None]) -> Iterator[Stage]:
    """Yield a hidden folder that takes the place of ``target`` when the block publishes it, and is gone otherwise.

    A process killed in between leaves ``target`` as it was and a hidden folder ``.NAME.partial`` beside it, which never
    hinders a later run and which the next run that writes into the same folder removes.

    Example::

        with staged(output, require=may_be_replaced) as stage:
            ...  # write into stage.folder
            if proved:
                stage.publish()

    Args:
        require: raises UserError when the target must not be replaced; asked before any work and again at the end.

    Raises:
        UserError: what ``require`` says, or that another process writes ``target``.
    """
    target = target.resolve()  # so that '.' has a name and a parent
    require(target)
    workshop = _workshop(target)
    with only_process(workshop, f"writing {target}") as locked:
        folder = workshop / secrets.token_hex(4)  # a name of its own, for a leftover may withstand removal
        try:
            if locked:
                _put_back(workshop, target)
                for leftover in workshop.iterdir():
                    locks.remove(leftover)
                _sweep(workshop)
            require(target)
            folder.mkdir()
            yield Stage(folder, target, require)
        except OSError as error:
            raise atomic.of_file(error, target) from None
        finally:
            locks.remove(folder)
            with suppress(OSError):
                workshop.rmdir()


def _workshop(target: Path) -> Path:
    """The hidden folder beside ``target`` in which it is made; its lock is that of the target."""
    names = (f".{target.name}.{number}.partial" if number else f".{target.name}.partial" for number in count())
    folders = (target.with_name(name) for name in names)
    # One left behind by another user, who alone may clear it, is passed over.
    return next(folder for folder in folders if not folder.exists() or os.access(folder, os.R_OK | os.W_OK | os.X_OK))


def _sweep(workshop: Path) -> None:
    """Remove what killed processes left beside ``workshop`` for other targets; what is not known to be ours stays."""
    for other in workshop.parent.glob(".*.partial"):
        with suppress(OSError):
            if other == workshop or other.is_symlink() or not other.is_dir():
                continue
            names = [item.name for item in other.iterdir()]
            if not names or not all(re.fullmatch("[0-9a-f]{8}", name) for name in names):
                continue
            descriptor = locks.open_folder(other)
            try:
                if locks.try_lock(descriptor, other) is locks.Lock.OURS:
                    locks.remove(other)
            finally:
                os.close(descriptor)


def _put_back(workshop: Path, target: Path) -> None:
    """Undo half a swap: a process was killed when it had set the target aside and not yet replaced it."""
    for aside in workshop.glob(f"*{ASIDE}"):
        if not target.exists():
            aside.rename(target)


@contextmanager
def only_process(folder: Path, activity: str) -> Iterator[bool]:
    """Hold the lock of ``folder``, which is made where it is missing.

    Args:
        activity: what a process does that holds it, for the sentence of those that come second.

    Yields:
        False on a file system without locks.

    Raises:
        UserError: when another process holds the lock, or the folder is a file.
    """
    deadline = time.monotonic() + PATIENCE
    while (held := _lock(folder)) is None:
        if time.monotonic() > deadline:
            raise UserError(f"another process is {activity}; wait for it or stop it.")
        time.sleep(0.05)
    descriptor, locked = held
    try:
        yield locked
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> tuple[int, bool] | None:
    """The descriptor of ``folder`` and whether it holds the lock; None while another process holds it."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = locks.open_folder(folder)
    except FileNotFoundError:  # its owner has just removed it
        return None
    lock = locks.try_lock(descriptor, folder)
    if lock in {locks.Lock.OURS, locks.Lock.UNKNOWN}:
        return descriptor, lock is locks.Lock.OURS
    os.close(descriptor)
    return None


def _same(folder: Path, kind: Kind, described: Mapping[str, Any]) -> dict[str, Any]:
    """What is recorded in ``folder``, when it is described alike."""
    recorded = read_json(folder / kind.record)
    if not isinstance(recorded, dict) or not described.keys() <= recorded.keys():
        raise UserError(f"{folder / kind.record} does not describe {kind.called} of this version; {kind.way_out}.")
    difference = _difference(recorded, _json(described))
    if difference is not None:
        raise UserError(f"{folder} holds {kind.called} with another {difference}; {kind.way_out}.")
    return recorded


def _difference(recorded: Mapping[str, Any], described: Mapping[str, Any]) -> str | None:
    """The first key whose value differs, such as "training.lr (0.1, not 0.01)"; long values are left out."""
    for key, value in described.items():
        known = recorded.get(key)
        if known == value:
            continue
        if isinstance(known, dict) and isinstance(value, dict):
            return f"{key}.{_difference(known, dict.fromkeys(known) | value)}"
        pair = f"{known}, not {value}"
        return f"{key} ({pair})" if len(pair) <= LONGEST_VALUES else key
    return None


def _json(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as they are read back: tuples are lists."""
    result: dict[str, Any] = json.loads(json.dumps(values))
    return result
