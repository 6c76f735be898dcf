"""Datasets in the formats of other tools, read for ``data convert --from``.

A picture is looked for by the name that its annotation gives, anywhere in the dataset's folder and never outside it.
The splits are those that the files name (``ImageSets/Main/train.txt``, a CVAT subset), or the folders ``train``,
``val`` and ``test`` in which they lie; without any, all is one split ``train``.
"""

import importlib
import pkgutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Protocol, cast

import numpy as np

from detheads.data import formats
from detheads.data.dataset import Category, Dataset, ImageRecord
from detheads.data.findings import counted
from detheads.data.layout import Split
from detheads.data.lookup import PictureNames
from detheads.data.marks import Marked
from detheads.data.misreadings import Stated, with_doubts
from detheads.data.parsed import Parsed, Problems
from detheads.foundation.errors import UserError
from detheads.foundation.images import read_header
from detheads.foundation.reading import read_text
from detheads.foundation.text import file_name

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


class Format(Protocol):
    """What a file in ``formats/`` defines; the file's name is the format's.

    Attributes:
        SUFFIX: ending of its annotation files.
        SAYS: what its annotation files are, for messages.
    """

    SUFFIX: str
    SAYS: str

    def read(self, path: Path) -> Iterator[Marked]:
        """The pictures of one file; none when it is of another format.

        Raises:
            UserError: the file cannot be read.
            ValueError: what is wrong with it, to be put behind its name.
        """
        ...


@cache
def known_formats() -> dict[str, Format]:
    """The formats by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(formats.__path__))
    return {name: cast(Format, importlib.import_module(f"{formats.__name__}.{name}")) for name in names}


def read_foreign(path: str | Path, format_name: str, *, skip_bad: bool = False) -> list[Dataset]:
    """Read a dataset of another tool's format.

    Args:
        path: as for :func:`find_foreign`.
        format_name: a name of :func:`known_formats`.
        skip_bad: leave out files, pictures and objects that cannot be used (``Dataset.skipped``).

    Returns:
        The splits, all with the same categories: the class names in alphabetical order, counted from 1.

    Raises:
        UserError: there is nothing of this format, or something in it is unusable.
    """
    parts = [(split.dataset, split.name, split.parse()) for split in find_foreign(path, format_name)]
    for _, _, parsed in parts:
        parsed.problems.raise_first(skip_bad=skip_bad)
    return [
        with_doubts(parsed.to_dataset(dataset, name, skip_bad=skip_bad), Stated(name, parsed, "corners"), Path(path))
        for dataset, name, parsed in parts
    ]


def find_foreign(path: str | Path, format_name: str) -> list[Split]:
    """The splits of a dataset of another tool's format, parsed already: no part of it can be found without the rest.

    Args:
        path: the folder with the pictures and the annotation files, or the one annotation file in it.
        format_name: a name of :func:`known_formats`.

    Raises:
        UserError: there is nothing of this format.
    """
    path = Path(path)
    form = known_formats()[format_name]
    folder, files = (path, _files(path, form.SUFFIX)) if path.is_dir() else (path.parent, [path])
    problems = Problems()
    marked = [one for file in files for one in _read(form, file, problems)]
    if not marked:
        problems.raise_first()
        raise UserError(f"{path} holds no {form.SAYS}; choose another --from ({', '.join(known_formats())}).")
    pictures = PictureNames(folder)
    names = sorted({mark.name for one in marked for mark in one.marks})
    categories = tuple(Category(number, name) for number, name in enumerate(names, start=1))
    listed = _listed_splits(folder)
    by_split: dict[str, list[tuple[ImageRecord, Marked]]] = defaultdict(list)
    # A picture that a list of a split names and no file annotates is one without objects.
    with_file = {file.stem for file in files}
    bare = (name for name in pictures.names if (stem := PurePosixPath(name).stem) in listed and stem not in with_file)
    named = (Marked(folder, name) for name in bare) if form.SUFFIX == ".xml" else ()
    for record, one in _records([*marked, *named], pictures, folder, problems):
        by_split[_split(record.file_name, one, listed, folder)].append((record, one))
    _tell_left_out(marked, len(pictures.names) - sum(map(len, by_split.values())), folder, problems)
    if not by_split:
        problems.raise_first()
    dataset = folder.resolve().name
    parsed = {
        # Problems are those of the whole, and told once.
        split: _parsed(entries, folder, categories, Problems() if number else problems)
        for number, (split, entries) in enumerate(sorted(by_split.items()))
    }
    return [Split(dataset, split, path, folder, partial(_same, part)) for split, part in parsed.items()]


def _same(parsed: Parsed) -> Parsed:
    return parsed


def _files(folder: Path, suffix: str) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() == suffix and not path.name.startswith(".") and path.is_file()
    )


def _read(form: Format, file: Path, problems: Problems) -> list[Marked]:
    """The pictures of one file; an unreadable one is a problem of its own."""
    try:
        marked = list(form.read(file))
    except (UserError, ValueError, TypeError, AttributeError, LookupError) as error:
        # JSON may hold any type at any place; what is expected of each is not asked one by one.
        known = isinstance(error, UserError | ValueError)
        what = str(error) if known else f"is built otherwise than {form.SAYS}"
        sentence = what.removeprefix(str(file)).strip().rstrip(".")
        problems.add("error", file, "unreadable annotations", sentence, bad=str(file))
        return []
    for one in marked:
        for sentence in one.bad:
            problems.add("error", file, "unusable object", sentence, bad=f"{file}: {sentence}")
    return marked


def _records(
    marked: Iterable[Marked], pictures: PictureNames, folder: Path, problems: Problems
) -> Iterator[tuple[ImageRecord, Marked]]:
    """Each annotated picture with what is marked in it; what cannot be found or read becomes a problem."""
    sources: dict[str, Path] = {}
    for one in marked:
        bad = f"{one.source}: {one.picture}"
        try:
            name = pictures.find(one.picture, one.source.relative_to(folder).as_posix(), one.alias)
            if name in sources:
                raise ValueError(f"annotates {name}, which {sources[name]} annotates too")
            header = read_header(folder / name)
        except (UserError, ValueError) as error:
            problems.add("error", one.source, "unusable picture", str(error).rstrip("."), bad=bad)
            continue
        sources[name] = one.source
        width, height = one.size or (header.width, header.height)
        yield ImageRecord(len(sources), name, folder / name, width, height), one


def _split(name: str, one: Marked, listed: dict[str, str], folder: Path) -> str:
    if one.split:
        word = one.split.casefold()
        return _SPLITS.get(word) or ("train" if word == "default" else file_name(one.split))
    if PurePosixPath(name).stem in listed:
        return listed[PurePosixPath(name).stem]
    parts = (*PurePosixPath(name).parts[:-1], *one.source.relative_to(folder).with_suffix("").parts)
    return next((_SPLITS[part.casefold()] for part in parts if part.casefold() in _SPLITS), "train")


def _listed_splits(folder: Path) -> dict[str, str]:
    """The splits of ``ImageSets/Main/train.txt`` and the like: picture without its ending -> split."""
    lists = [path for path in _files(folder, ".txt") if "ImageSets" in path.parts and path.stem in _SPLITS]
    lists = [path for path in lists if path.parent.name == "Main"] or lists
    listed: dict[str, str] = {}
    for path in lists:
        for line in read_text(path).splitlines():
            if words := line.split():
                listed.setdefault(PurePosixPath(words[0]).stem, _SPLITS[path.stem])
    return listed


def _tell_left_out(marked: Sequence[Marked], bare: int, folder: Path, problems: Problems) -> None:
    left_out = sum((one.left_out for one in marked), Counter[str]())
    for kind, count in left_out.items():
        problems.add("note", folder, f"left out {kind}", f"{counted(count, kind)} left out: it is no box", count)
    if bare:
        sentence = f"{counted(bare, 'picture')} left out that no annotation names"
        problems.add("note", folder, "pictures without annotations", sentence)


def _parsed(
    entries: Sequence[tuple[ImageRecord, Marked]], folder: Path, categories: tuple[Category, ...], problems: Problems
) -> Parsed:
    label_of = {category.name: label for label, category in enumerate(categories)}
    marks = [(index, mark) for index, (_, one) in enumerate(entries) for mark in one.marks]
    boxes = np.array([mark.box for _, mark in marks], dtype=np.float64).reshape(-1, 4)
    index = np.array([index for index, _ in marks], dtype=np.int64)
    scale = np.array(
        [(image.width, image.height) if one.shares else (1, 1) for image, one in entries], dtype=np.float64
    ).reshape(-1, 2)
    with np.errstate(over="ignore"):  # a number beyond floats is one that is not finite, and is dropped as such
        boxes = boxes * np.tile(scale[index], 2)
    return Parsed(
        folder,
        categories,
        tuple(image for image, _ in entries),
        boxes,
        index,
        np.array([label_of[mark.name] for _, mark in marks], dtype=np.int64),
        np.array([mark.crowd for _, mark in marks], dtype=np.bool_),
        np.full(len(marks), np.nan),
        problems,
    )
