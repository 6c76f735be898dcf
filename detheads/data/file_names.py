"""Image files found by the names that annotations give them.

Annotation tools write absolute paths of other machines, backslashes, folders that are gone, another case or another
form of an accent. All of it is looked up in the list of the files that are really there, so that no name leads outside.
"""

import os
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from detheads.data.dataset import SPLIT_NAME
from detheads.foundation.errors import UserError, suggest
from detheads.foundation.images import IMAGE_SUFFIXES, OTHER_SUFFIXES, walk

_JPEG = frozenset({".jfif", ".jpe", ".jpeg", ".jpg"})
_TRIED = 100
"""Names with which the folder of a split is chosen."""


class ImageFiles:
    """The files below a folder.

    Args:
        folder: the folder.
        own: names of sub-folders that may be left out of a name even though they are called after a split. Files below
            other splits' folders have to be named with them, so that no split takes another one's picture.
    """

    def __init__(self, folder: Path, own: Set[str] = frozenset()) -> None:
        self.folder, self._own = folder, frozenset(map(_folded, own))

    @cached_property
    def names(self) -> frozenset[str]:
        """Every file, relative to the folder, with ``/``."""
        return frozenset(walk(self.folder))

    @cached_property
    def _by_spelling(self) -> Mapping[str, Sequence[str]]:
        return _grouped(self.names, _folded)

    @cached_property
    def _by_last_part(self) -> Mapping[str, Sequence[str]]:
        return _grouped(self.names, lambda name: _folded(posixpath.basename(name)))

    def images(self) -> list[str]:
        """The image files, without hidden ones, sorted."""
        return sorted(
            name
            for name in self.names
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - a Path for each is slow
            and not posixpath.basename(name).startswith(".")
        )

    def find(self, name: str, named: Set[str] = frozenset()) -> str:
        """The file, relative to the folder, that an annotation calls ``name``: the very file, or else the only like it.

        Likeness in order: the end of the path, the last part alone, and each of them in another case or form of
        accents, or with another ending of JPEG.

        Args:
            name: what the annotation says.
            named: files that other annotations name exactly, which are not offered as what may be meant.

        Raises:
            UserError: when there is none, several, or one whose format is not read; the sentence begins with the name.
        """
        found = self._same(name) or self._alike(name, named)
        if os.path.splitext(found)[1].lower() in OTHER_SUFFIXES:  # noqa: PTH122
            raise UserError(f"{name!r} is of a format that is not read; convert it to PNG or JPEG.")
        return found

    def _same(self, name: str) -> str | None:
        if name in self.names:
            return name
        normal = posixpath.normpath(name)
        return normal if normal in self.names else None

    def _alike(self, name: str, named: Set[str]) -> str:
        spellings = list(dict.fromkeys(_spellings(name)))
        for ending in (tail for spelling in spellings for tail in _tails(spelling)):
            if ending in self.names:
                return ending
        stated = {part for spelling in spellings for part in _folded(spelling).split("/")}
        for likely in self._candidates(spellings):
            candidates = [found for found in likely if self._splits_of(found) <= stated]
            if len(candidates) == 1:
                return candidates[0]
            if candidates:
                first, second, *_ = sorted(candidates)
                raise UserError(f"{name!r} may be {first!r} or {second!r} in {self.folder}; write the whole name.")
        last = posixpath.basename(spellings[-1])
        near = suggest(last, (posixpath.basename(known) for known in self.names - named))
        if posixpath.isabs(name) or posixpath.normpath(name).startswith(".."):
            raise UserError(
                f"{name!r} leaves its folder {self.folder} and was not opened, and no file there has its name."
            )
        raise UserError(f"{name!r} does not exist in {self.folder}.{near}")

    def _splits_of(self, name: str) -> set[str]:
        """Other splits' folders that a file lies in."""
        above = _folded(posixpath.dirname(name)).split("/")
        return {part for part in above if SPLIT_NAME.fullmatch(part) and part not in self._own}

    def _candidates(self, spellings: Sequence[str]) -> Iterator[Sequence[str]]:
        """Files that are like one of the spellings, the most alike first."""
        for spelling in spellings:
            for tail in _tails(spelling):
                yield self._by_spelling.get(_folded(tail), ())
        for spelling in spellings:
            yield self._by_last_part.get(_folded(posixpath.basename(spelling)), ())
        for spelling in spellings:
            stem, suffix = posixpath.splitext(posixpath.basename(spelling))
            if suffix.lower() in _JPEG:
                yield [name for other in _JPEG for name in self._by_last_part.get(_folded(stem + other), ())]


def folder_of(names: Sequence[str], folders: Sequence[Path]) -> ImageFiles:
    """The one of some folders in which files of these names lie; the first of those where most lie.

    Args:
        names: file names as annotations give them.
        folders: folders that may hold them, the likeliest first.

    Raises:
        UserError: when none of the folders exists, or the likeliest does not and none has one of the files.
    """
    own = {folder.name for folder in folders}
    places = [ImageFiles(folder, own) for folder in dict.fromkeys(folders) if folder.is_dir()]
    if not places:
        raise UserError(f"{folders[0]} is missing: the images belong there.")
    tried = [names[index * len(names) // _TRIED] for index in range(_TRIED)] if len(names) > _TRIED else names
    # os.path.isfile is false for a text that cannot be a path, where Path.is_file raises.
    exact = [sum(os.path.isfile(place.folder / name) for name in tried if _inside(name)) for place in places]  # noqa: PTH113
    if any(exact):
        return places[exact.index(max(exact))]
    loose = [sum(_is_found(place, name) for name in tried) for place in places]
    if tried and not any(loose) and not folders[0].is_dir():
        raise UserError(f"{folders[0]} is missing: the images belong there, and none of them lies in {folders[-1]}.")
    return places[loose.index(max(loose))]


def _is_found(place: ImageFiles, name: str) -> bool:
    try:
        place.find(name)
    except UserError:
        return False
    return True


def _inside(name: str) -> bool:
    normal = posixpath.normpath(name)
    return not (posixpath.isabs(name) or normal.startswith("..") or "\0" in name)


def _spellings(name: str) -> Iterator[str]:
    """The name with separators of Windows and with the escapes of a web address undone."""
    yield name
    yield name.strip().replace("\\", "/")
    yield unquote(name.strip().replace("\\", "/").partition("?d=")[2] or name.strip().replace("\\", "/"))


def _tails(name: str) -> Iterator[str]:
    """The ends of a path, the longest first: ``a/b/c``, ``b/c``, ``c``."""
    parts = [part for part in posixpath.normpath(name).split("/") if part not in {"", ".", ".."}]
    for start in range(len(parts)):
        yield "/".join(parts[start:])


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _grouped(names: frozenset[str], key: Callable[[str], str]) -> Mapping[str, Sequence[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[key(name)].append(name)
    return groups
