"""Which files a bundle folder holds."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

NOT_OURS: Final = frozenset({".git", ".gitattributes", ".cache"})
"""What git and model hubs put beside a bundle's own files."""


def files_of(bundle: Path) -> Iterator[str]:
    """Names of all files, ``/`` between folders, in order; links to files count, links to folders are not followed."""
    for folder, folders, names in os.walk(bundle):
        top = Path(folder) == bundle
        folders[:] = sorted(name for name in folders if not (top and name in NOT_OURS))
        for name in sorted(names):
            if not (top and name in NOT_OURS):
                yield (Path(folder) / name).relative_to(bundle).as_posix()


def file_sizes(bundle: Path) -> dict[str, int]:
    """Bytes of each file by name; a link counts as what it points at, and as nothing where that is missing."""
    found = {name: bundle / name for name in files_of(bundle)}
    return {name: path.stat().st_size if path.exists() else 0 for name, path in found.items()}
