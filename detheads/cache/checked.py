"""Which files of a cache were found whole before: a large cache is not read from end to end by every process anew.

Lines are appended to one hidden file of the cache's folder, which all processes and machines that read the cache share,
and which goes when the cache goes. A folder that cannot be written to is checked by each process for itself.
"""

import json
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.reading import open_regular

NAME = ".checked"
YOUNG_NS = 2 * 10**9
"""Nanoseconds in which a file may change twice under one time stamp, on any file system (FAT counts in 2 s): what was
changed as lately as this is not remembered."""
_LONGEST = 64 * 2**20
"""Bytes of the file that are looked at; a shard takes about 150."""


class CheckedFiles:
    """Digests of the files of one folder, as any process found them."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._known: frozenset[tuple[str, ...]] = frozenset()
        self._size = 0

    def has(self, path: Path, sha256: str) -> bool:
        """Whether a file of the folder has this digest. It is read, unless it is as it was when it had it.

        Raises:
            OSError: when it cannot be read.
        """
        since, stamp = time.time_ns(), _stamp(path)
        line = path.name, stamp, sha256
        if line in self._known:
            return True
        self._look()  # another process may have checked further files
        if line in self._known:
            return True
        if atomic.sha256_of(path) != sha256:
            return False
        status = path.stat()
        if _stamp(path) == stamp and max(status.st_mtime_ns, status.st_ctime_ns) < since - YOUNG_NS:
            with suppress(OSError):
                self._append(json.dumps(line) + "\n")
        return True

    def _append(self, text: str) -> None:
        """A folder may come from anybody: nothing is written through a link out of it, nor into a pipe or device."""
        not_elsewhere = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        opened = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | not_elsewhere, 0o666)
        try:
            if stat.S_ISREG(os.fstat(opened).st_mode):
                os.write(opened, text.encode())
        finally:
            os.close(opened)

    def _look(self) -> None:
        with suppress(OSError, UserError):
            size = self._path.stat().st_size
            if size != self._size:
                self._known, self._size = self._read(), size

    def _read(self) -> frozenset[tuple[str, ...]]:
        found = set()
        with open_regular(self._path) as file:
            for line in file.read(_LONGEST).splitlines():
                with suppress(
                    ValueError, RecursionError, TypeError
                ):  # a line that a killed process left half, or noise
                    found.add(tuple(map(str, json.loads(line))))
        return frozenset(found)


def _stamp(path: Path) -> str:
    """What changes whenever a file does: writing sets the last of these times, which nobody can set back."""
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
