"""Folders that appear whole or not at all."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detheads.foundation.errors import UserError


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``target``; rename it to ``target`` when the block ends without an error.

    Raises:
        UserError: when ``target`` exists and is not an empty folder.
    """
    target = target.resolve()  # so that '.' has a name and a parent
    if target.is_dir():
        if any(target.iterdir()):
            raise UserError(f"{target} is not empty; choose another folder or remove it first.")
    elif target.exists():
        raise UserError(f"{target} is a file; choose another folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        yield partial
        if target.is_dir():
            target.rmdir()
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def only_process(folder: Path, activity: str) -> Iterator[bool]:
    """Hold the lock of ``folder``, which is made where it is missing; the system lets go of it when the process ends,
    however it ends.

    Args:
        activity: what another process would be doing there, such as "building the cache".

    Yields:
        False on a file system without locks.

    Raises:
        UserError: when another process holds the lock, or the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    locked = True
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is {activity} {folder}; wait for it or stop it.") from None
        except OSError:
            locked = False  # some network file systems know no locks
        yield locked
    finally:
        os.close(descriptor)
