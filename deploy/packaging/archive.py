"""An archive whose bytes follow from the names and bytes of its files, and from nothing else."""

import gzip
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from detheads.deploy.packaging.wheel import EPOCH
from detheads.foundation import atomic

SUFFIX: Final = ".tar.gz"


def write_archive(path: Path, root: str, files: Mapping[str, Path]) -> None:
    """Write ``files`` below the folder ``root`` of a new archive, sorted, owned by root, all of one time.

    Folders are entries, too: whoever unpacks it as root makes folders that every user may look into.

    Args:
        files: name in the archive (``/`` between folders) -> file. Scripts (``.sh``) may be executed.
    """
    with (
        atomic.replacing(path) as partial,
        partial.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        folders = {str(parent) for name in files for parent in PurePosixPath(root, name).parents} - {"."}
        for folder in sorted(folders):
            info = tarfile.TarInfo(folder)
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, EPOCH
            archive.addfile(info)
        for name, source in sorted(files.items()):
            info = tarfile.TarInfo(f"{root}/{name}")
            info.size = source.stat().st_size
            info.mtime = EPOCH
            info.mode = 0o755 if name.endswith(".sh") else 0o644
            with source.open("rb") as content:
                archive.addfile(info, content)
