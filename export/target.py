"""Where a bundle may be written. Free of torch, so that a name is refused at once."""

from pathlib import Path

from detheads.foundation.contents import MANIFEST_NAME
from detheads.foundation.errors import UserError

SUFFIX = ".detheads"


def require_target(target: Path, force: bool) -> None:
    """Check before any work that a bundle may be written to ``target``.

    Raises:
        UserError: when it is a file, a folder of something else, or a bundle without ``force``; a foreign folder is
            never replaced.
    """
    if target.suffix != SUFFIX:
        raise UserError(f"a bundle's name ends in {SUFFIX}; write -o {target.name}{SUFFIX}.")
    if not target.exists():
        return
    if not target.is_dir():
        raise UserError(f"{target} is a file; choose another name.")
    if any(target.iterdir()):
        if not (target / MANIFEST_NAME).is_file():
            raise UserError(f"{target} holds something that is not a bundle and was left alone; choose another name.")
        if not force:
            raise UserError(f"{target} exists; choose another name, or replace it with --force.")
