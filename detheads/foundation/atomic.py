"""Files that are either whole or absent, and places to write that are tried before the work.

Torch-free: the deployment runtime uses it too.
"""

import ctypes
import errno
import glob
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detheads.foundation import locks
from detheads.foundation.errors import UserError
from detheads.foundation.reading import open_regular, unreadable
from detheads.foundation.reading import read_json as read_json
from detheads.foundation.text import LONGEST_NAME, cut, json_text


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block ends without an error.

    A process killed in between leaves the old file (or none) and a hidden ``.NAME.LETTERS.partial`` file, which the
    next writer of ``path`` removes. The file is there, empty, before the block begins, and keeps the suffix of
    ``path``, because many writers choose their format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = cut(path.stem, LONGEST_NAME - len(f"..12345678.partial{path.suffix}".encode("utf-8", "surrogateescape")))
    locks.sweep(path.parent, f".{glob.escape(stem)}.*.partial{glob.escape(path.suffix)}")
    partial, descriptor = locks.create_locked(lambda letters: path.with_name(f".{stem}.{letters}.partial{path.suffix}"))
    try:
        yield partial
        with partial.open("r+b") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    except OSError as error:
        raise of_file(error, path) from None
    finally:
        partial.unlink(missing_ok=True)
        os.close(descriptor)


def is_full(error: BaseException) -> bool:
    """Whether a disk or a quota has no room left."""
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}


def of_file(error: OSError, path: Path) -> OSError:
    """The error with the name of what was being written: a full disk is told without one, or with a copy's source."""
    if is_full(error) or error.errno == errno.EFBIG:
        error.filename, error.filename2 = str(path), None
    return error


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    r"""Write ``text`` to ``path`` as UTF-8, atomically.

    A lone surrogate, which stands for a byte of a file name that is not UTF-8, becomes its escape, such as ``\udcff``:
    in JSON that is the same string again.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write ``value`` as JSON to ``path``, atomically. NaN and infinity are refused (they are not JSON)."""
    write_text(path, json_text(value, indent=indent) + "\n")


def try_output(path: Path, *, folder: bool = False, needs: int = 0) -> None:
    """Find out before the work whether its result can be written to ``path`` after it; nothing is left behind.

    Args:
        folder: ``path`` is a folder that takes files, not a file.
        needs: bytes of the result, as far as they are known.

    Raises:
        UserError: the path cannot become that (a file where a folder is needed, or the reverse; a name too long), the
            place is not writable, or it has not the space.
    """
    for part in path.parts:
        if "\0" in part:
            raise unreadable(path, ValueError())
        if len(os.fsencode(part)) > LONGEST_NAME:
            raise UserError(f"the name {part[:60]!r}... is longer than {LONGEST_NAME} bytes; shorten it.")
    place = path if folder else path.parent
    try:
        if not folder and path.is_dir():
            raise UserError(f"{path} is a folder; give the name of a file.")
        while not os.path.lexists(place):
            place = place.parent
        if not place.is_dir():
            raise UserError(f"{place} is not a folder; choose another place than {path}.")
        partial, descriptor = locks.create_locked(lambda letters: place / f".{letters}.partial")
        os.close(descriptor)
        partial.unlink()
        free = shutil.disk_usage(place).free
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}: {place}); choose another place.") from None
    if free < needs:
        raise UserError(f"{path} needs {sized(needs)}, and {place} has {sized(free)} free; make room or go elsewhere.")


def sized(count: int) -> str:
    """Bytes for a reader: ``1.4 GB``, ``23.0 MB``, ``512 B``; what is not nothing never reads as 0."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def exchange(one: Path, other: Path) -> bool:
    """Swap what two names of one file system stand for, in one step; False where the system cannot.

    Linux (``renameat2``) and macOS (``renamex_np``) can, on most file systems.
    """
    names = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == "linux":
            at_here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
            return ctypes.CDLL(None).renameat2(at_here, names[0], at_here, names[1], swap) == 0
        if sys.platform == "darwin":
            return ctypes.CDLL(None).renamex_np(*names, 2) == 0  # RENAME_SWAP
    except (AttributeError, OSError):  # a C library without it
        pass
    return False


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's content, read in blocks."""
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def inside(folder: Path, name: str, *, links: bool = False) -> Path:
    """``folder / name``, refused when it would leave ``folder`` (``..``, absolute paths, links that point out).

    Args:
        links: allow links that point out, where the folder is the user's own (datasets are often folders of links).

    Raises:
        UserError: when ``name`` leaves the folder.
    """
    candidate = folder / name
    try:
        left = not name or not _place(candidate, links).is_relative_to(_place(folder, links))
    except (OSError, ValueError, RuntimeError):  # a name that no path may have, a loop of links
        left = True
    if left:
        raise UserError(f"the path {name!r} leaves its folder {folder}; it was not opened.")
    return candidate


def _place(path: Path, links: bool) -> Path:
    if not links:
        return path.resolve()
    if "\0" in str(path):
        raise ValueError
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
