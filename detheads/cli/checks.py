"""Mistakes in arguments that need no torch to be seen, told before it is loaded.

Loading torch takes seconds, and the work before such a mistake would be noticed sometimes hours. Commands call these
first, and import what is heavy after them.
"""

from collections.abc import Sequence
from pathlib import Path

from detheads.foundation.atomic import try_output
from detheads.foundation.cores import check_threads
from detheads.foundation.errors import UserError, suggest


def require_existing(*paths: Path | None, cure: str = "") -> None:
    """Refuse a path that does not exist; a near name in the same folder is offered.

    Args:
        cure: what makes such a path, as the end of the sentence.

    Raises:
        UserError: for the first that does not.
    """
    for path in paths:
        try:
            missing = path is not None and not path.exists()
        except OSError:  # a name too long, a folder that may not be looked into: whoever opens it says so
            continue
        if path is not None and missing:
            if path.is_symlink():
                raise UserError(f"{path} is a link that leads to nothing; correct it.")
            siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
            raise UserError(f"{path} does not exist{cure and '; '}{cure}.{suggest(path.name, siblings)}")


def require_run(run: Path) -> None:
    """Refuse a training run that does not exist.

    Raises:
        UserError: when it does not.
    """
    require_existing(run, cure=f"train a head with 'detheads train ... -o {run}' first")


def require_caches(*folders: Path | None) -> None:
    """Refuse what is not the folder of a finished feature cache.

    Raises:
        UserError: for the first that is none.
    """
    from detheads.cache.manifest import read_manifest

    for folder in folders:
        if folder is not None:
            read_manifest(folder)


def require_heads(names: Sequence[str], head_files: Sequence[Path] | None) -> None:
    """Refuse unknown heads; those that files bring are known only when these are loaded.

    Raises:
        UserError: for the first that is not installed.
    """
    from detheads.headkit.library import head_modules, require_head

    for name in names if not head_files else ():
        require_head(name, head_modules())


def require_outputs(*, files: Sequence[Path | None] = (), folders: Sequence[Path | None] = ()) -> None:
    """Refuse files and folders that could not be written after the work.

    Raises:
        UserError: for the first.
    """
    for path in files:
        if path is not None:
            try_output(path)
    for path in folders:
        if path is not None:
            try_output(path, folder=True)


def possible_threads(threads: int | None) -> int | None:
    """Callback of an option: a number of threads that this machine can run.

    Raises:
        UserError: when it cannot.
    """
    check_threads(threads)
    return threads


def one_for_each(data: Sequence[Path], runs: Sequence[Path]) -> list[Path]:
    """The dataset of each run: its own, or one for all of them.

    Raises:
        UserError: when there are several and not one for each.
    """
    if len(data) not in {1, len(runs)}:
        raise UserError(f"{len(data)} of --data for {len(runs)} runs; give one for all, or one for each run.")
    return [*data] * (len(runs) // len(data))
