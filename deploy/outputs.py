"""Names of annotated pictures that never meet, and can be written."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath

from detheads.foundation.errors import UserError
from detheads.foundation.text import file_name

SUFFIX = ".jpg"


def picture_names(sources: Iterable[str]) -> list[str]:
    """A relative path for the annotated picture of each source, all of them different on every file system.

    It is the source's own path with another suffix, numbered where another source has it already.

    Args:
        sources: relative paths of the pictures.
    """
    files: set[str] = set()
    folders: set[str] = set()
    numbers: Counter[str] = Counter()
    moved: dict[PurePosixPath, PurePosixPath] = {}  # folders that could not have the name of their source

    def free(place: PurePosixPath, stem: str, suffix: str, taken: Callable[[str], bool]) -> PurePosixPath:
        path = place / file_name(stem + suffix)
        first = _folded(path)
        while taken(_folded(path)):
            numbers[first] += 1
            path = place / file_name(f"{stem}-{numbers[first] + 1}{suffix}")
        return path

    names = []
    for source in sources:
        *parents, last = [part for part in PurePosixPath(source).parts if part not in {"..", "/"}] or ["picture"]
        place = PurePosixPath()
        for parent in parents:
            place = place / file_name(parent)
            if place not in moved and _folded(place) in files:
                moved[place] = free(place.parent, parent, "", files.__contains__)
            place = moved.get(place, place)
            folders.add(_folded(place))
        path = free(place, PurePosixPath(last).stem, SUFFIX, lambda key: key in files or key in folders)
        files.add(_folded(path))
        names.append(str(path))
    return names


def _folded(path: PurePosixPath) -> str:
    """What two names have in common that are one name where case or accents' encoding do not count."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def try_pictures(folder: Path, names: Mapping[str, str]) -> None:
    """Make an empty file for each picture, so that a name which the file system refuses is known before the work.

    Args:
        names: path below ``folder`` -> the source that it belongs to.

    Raises:
        UserError: when a file cannot be made.
    """
    for name, source in names.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("xb").close()
        except OSError as error:
            raise UserError(
                f"the annotated picture of {source} cannot be written here as {name} ({error.strerror}); rename it, "
                "choose another output folder or give --no-pictures."
            ) from None
