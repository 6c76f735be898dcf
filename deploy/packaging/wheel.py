"""The wheel of detheads itself: one that is given, built from the source tree it runs from, or put together again from
the files that were installed."""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from detheads.foundation.errors import UserError
from detheads.foundation.text import visible

EPOCH: Final = 315532800
"""1980-01-01, the first day that a zip file can tell; the time of every file, so that equal inputs give equal bytes."""
SOURCES: Final = ("pyproject.toml", "README.md", "LICENSE", "detheads", "analytical", "export", "deploy")
NAME: Final = re.compile(r"detheads-[\w.+]+-py3-none-any\.whl")
_LEFT_OUT: Final = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"})
"""What installers write into a wheel's ``dist-info``."""


def own_wheel(folder: Path, given: Path | None) -> Path:
    """Put the wheel into ``folder``.

    Raises:
        UserError: when the given one is none of detheads, or none is given and none can be made.
    """
    if given is not None:
        if not NAME.fullmatch(given.name) or not zipfile.is_zipfile(given):
            raise UserError(f"{given} is no wheel of detheads; give detheads-VERSION-py3-none-any.whl.")
        return Path(shutil.copyfile(given, folder / given.name))
    tree = source_tree()
    if tree is not None:
        return build(tree, folder)
    try:
        return repack(distribution("detheads"), folder)
    except PackageNotFoundError:
        raise UserError("detheads runs from files that were never installed; give its wheel with --wheel.") from None


def source_tree() -> Path | None:
    """The source tree that this runs from; None where it was installed from a wheel."""
    import detheads

    tree = Path(detheads.__file__).resolve().parents[1]
    return tree if all((tree / name).exists() for name in SOURCES) else None


def build(tree: Path, folder: Path) -> Path:
    """Build the wheel of a source tree with pip, from a copy, so that nothing is left in the tree.

    Raises:
        UserError: with pip's reason, when it cannot.
    """
    copy = folder / "source"
    copy.mkdir()
    for name in SOURCES:
        source = tree / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, copy / name)
    try:
        run_pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(copy))
    except UserError as error:
        raise UserError(f"no wheel could be built from {tree} ({error}); give one with --wheel.") from None
    shutil.rmtree(copy)
    return next(path for path in folder.iterdir() if NAME.fullmatch(path.name))


def repack(installed: Distribution, folder: Path) -> Path:
    """Put a wheel together from installed files, each compared with the digest that was recorded when it came.

    Raises:
        UserError: when a file was altered or removed since.
    """
    place = f"detheads-{installed.version}.dist-info"
    rows = []
    target = folder / f"detheads-{installed.version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in sorted(installed.files or [], key=str):
            inner = entry.parts[0] == place and entry.name not in _LEFT_OUT
            if not (inner or entry.parts[0] == "detheads") or entry.suffix == ".pyc":
                continue  # scripts outside of the packages are made anew when the wheel is installed
            path = Path(str(entry.locate()))
            data = path.read_bytes() if path.is_file() else b""
            digest = _digest(data)
            if entry.hash is None or digest != entry.hash.value:
                raise UserError(f"{path} is not as it was installed; install detheads anew, or give --wheel.")
            _add(archive, str(entry), data)
            rows.append(f"{entry},sha256={digest},{len(data)}")
        _add(archive, f"{place}/RECORD", "\n".join([*rows, f"{place}/RECORD,,", ""]).encode())
    return target


def run_pip(*arguments: str) -> None:
    """Run this Python's pip.

    Raises:
        UserError: when it has none, or with pip's own reason.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines[-1:]
        raise UserError(visible(next(iter(errors), f"pip ended with code {done.returncode}").rstrip(".")))


def _digest(data: bytes) -> str:
    """As wheels record it."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name)  # of 1980
    info.external_attr = 0o644 << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, data)
