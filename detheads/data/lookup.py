"""Pictures found by the names that annotations of other tools give them."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from detheads.foundation.errors import suggest
from detheads.foundation.images import list_images


class PictureNames:
    """The picture files of a folder, found by the names that annotations give them."""

    def __init__(self, folder: Path) -> None:
        self.names = list_images(folder)
        self._by_base: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in self.names:
            self._by_base[PurePosixPath(name).name].append(name)
            self._by_stem[PurePosixPath(name).stem].append(name)

    def find(self, stated: str, source: str, alias: str = "") -> str:
        """The file that an annotation file (both relative to the folder) means.

        The ``alias`` is looked for where the stated name is not there: pictures are renamed more often than the names
        in their annotations.

        Of several of one name, the one with most folders in common with what is stated, then with the annotation file.

        Raises:
            ValueError: there is none, or several are as likely.
        """
        wanted = PurePosixPath(stated.replace("\\", "/"))
        candidates = self._by_base.get(wanted.name) or self._by_stem.get(wanted.name) or self._by_stem.get(wanted.stem)
        if not candidates and alias:
            return self.find(alias, source)
        if not candidates:
            near = suggest(wanted.name, self._by_base)
            raise ValueError(f"names the picture {stated!r}, which is not in the folder.{near}")
        beside = _common(PurePosixPath(source).parts)

        def rank(name: str) -> tuple[int, int]:
            parts = PurePosixPath(name).parts
            return _common(wanted.parts[::-1])(parts[::-1]), beside(parts)

        best = max(map(rank, candidates))
        likely = [name for name in candidates if rank(name) == best]
        if len(likely) > 1:
            raise ValueError(f"names the picture {stated!r}, which may be {likely[0]} or {likely[1]}; name its folder")
        return likely[0]


def _common(parts: Sequence[str]) -> Callable[[Sequence[str]], int]:
    """How many first parts others have in common with these."""
    return lambda others: next(
        (number for number, (one, other) in enumerate(zip(parts, others, strict=False)) if one != other),
        min(len(parts), len(others)),
    )
