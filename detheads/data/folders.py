"""Folders that appear whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detheads.errors import UserError


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
