"""Where Linux tells what a container may use: the control groups of this process, in both versions of them."""

from collections.abc import Iterator
from pathlib import Path

MACHINE = Path("/")
"""Below which Linux tells of control groups: ``proc/self/cgroup`` and ``sys/fs/cgroup``."""


def groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups that this process is in, to the outermost that is mounted here. Inside a container
    the group's path may be the host's, of which only that outermost one is there.

    Args:
        controller: ``cpu``, ``memory`` and so on.
    """
    mounted = root / "sys/fs/cgroup"
    for line in read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]  # none: version 2
        if controllers and controller not in controllers.split(","):
            continue
        group = Path(path.lstrip("/"))
        for place in (mounted / controllers, mounted / (controller if controllers else "unified")):
            yield from (place / each for each in (group, *group.parents))


def read(path: Path) -> str:
    """A file of the system; empty where it is not there, as on other systems and in other versions."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
