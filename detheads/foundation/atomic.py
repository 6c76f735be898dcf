"""Files that are either whole or absent, and JSON that is read with a clear error.

Torch-free: the deployment runtime uses it too.
"""

import glob
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detheads.foundation import locks
from detheads.foundation.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block ends without an error.

    A process killed in between leaves the old file (or none) and a hidden ``.NAME.LETTERS.partial`` file, which the
    next writer of ``path`` removes. The file is there, empty, before the block begins, and keeps the suffix of
    ``path``, because many writers choose their format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    locks.sweep(path.parent, f".{glob.escape(path.stem)}.*.partial{glob.escape(path.suffix)}")
    partial, descriptor = locks.create_locked(
        lambda letters: path.with_name(f".{path.stem}.{letters}.partial{path.suffix}")
    )
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write ``value`` as JSON to ``path``, atomically. NaN and infinity are refused (they are not JSON)."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: when the file is missing, not UTF-8 or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); repair it or fetch it again.") from None


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's content, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
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
    if not name or not _place(candidate, links).is_relative_to(_place(folder, links)):
        raise UserError(f"the path {name!r} leaves its folder {folder}; it was not opened.")
    return candidate


def _place(path: Path, links: bool) -> Path:
    return Path(os.path.abspath(path)) if links else path.resolve()  # noqa: PTH100 - resolve() would follow links
