"""Locks of files and folders, and what killed processes leave behind.

Whoever makes something holds the lock (``flock``) of the unfinished file or folder. The system lets go of a lock when
its process ends, however it ends: who gets the lock of something unfinished may clear it. Process numbers, which the
system gives out again, play no part.

Some network file systems know no locks, and Windows has none of this kind. There nothing is cleared and nobody is kept
out, and all that is unfinished has names that never meet.
"""

import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from types import ModuleType

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class Lock(Enum):
    """Whose lock it is."""

    OURS = auto()
    """This process's, until it closes the descriptor."""
    ANOTHERS = auto()
    GONE = auto()
    """Nobody's: the path is no longer the file that was opened."""
    UNKNOWN = auto()
    """The file system knows no locks."""


def try_lock(descriptor: int, path: Path) -> Lock:
    """Lock what was opened at ``path`` as ``descriptor``, without waiting."""
    if fcntl is None:
        return Lock.UNKNOWN
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return Lock.ANOTHERS
    except OSError:
        return Lock.UNKNOWN
    try:  # its owner may have renamed or removed it between our opening and our lock
        return Lock.OURS if os.path.samestat(os.fstat(descriptor), path.stat()) else Lock.GONE
    except FileNotFoundError:
        return Lock.GONE


def create_locked(name: Callable[[str], Path]) -> tuple[Path, int]:
    """Make an empty file under a name that is not taken, and lock it where the file system can.

    Args:
        name: a path from a few random letters.

    Returns:
        The path, and the descriptor to close when it is no longer needed.
    """
    while True:
        path = name(secrets.token_hex(4))
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
        if fcntl is None:  # Windows does not rename what is open
            os.close(descriptor)
            return path, os.open(os.devnull, os.O_RDONLY)
        if try_lock(descriptor, path) in {Lock.OURS, Lock.UNKNOWN}:
            return path, descriptor
        os.close(descriptor)  # a sweep came between making and locking it, and removes it


def open_folder(folder: Path) -> int:
    """A descriptor of ``folder`` to lock; Windows opens no folders."""
    return os.open(os.devnull if fcntl is None else folder, os.O_RDONLY)


def sweep(folder: Path, pattern: str) -> None:
    """Remove the unfinished files that match ``pattern`` and whose owners are gone.

    What cannot be removed stays, which harms nobody: no name is used twice.
    """
    for leftover in folder.glob(pattern):
        with suppress(OSError):
            if leftover.is_symlink() or not leftover.is_file():
                continue
            descriptor = os.open(leftover, os.O_RDONLY)
            try:
                if try_lock(descriptor, leftover) is Lock.OURS:
                    leftover.unlink()
            finally:
                os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds, as far as that is possible."""
    with suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
