"""Whether a bundle's folder has changed, told without reading its files."""

from pathlib import Path

Fingerprint = frozenset[tuple[str, int, int, int]]
"""Name, time of change, size and inode of each file and folder."""


def fingerprint(folder: Path) -> Fingerprint:
    """Of a folder as it is now; empty when it is not there."""
    found = set()
    for path in folder.rglob("*"):
        try:
            status = path.stat()
        except OSError:  # replaced at this moment: the next look sees what came
            continue
        found.add((path.relative_to(folder).as_posix(), status.st_mtime_ns, status.st_size, status.st_ino))
    return frozenset(found)
