"""Which layout a dataset folder has, and where the parts of its splits lie."""

import importlib
import pkgutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, Protocol, cast

from detheads.data import layouts
from detheads.data.dataset import Dataset
from detheads.data.parsed import Parsed
from detheads.foundation.errors import UserError, suggest

_ALIASES = {"val": "valid", "valid": "val"}


Convention = Literal["sizes", "shares", "corners"]
"""Corner and size in pixels (COCO), centre and size as shares of the picture (YOLO), corners in pixels (Pascal VOC)."""


@dataclass(frozen=True)
class Split:
    """Where one split of a dataset lies."""

    dataset: str
    """The dataset's name: its folder's."""
    name: str
    annotations: Path
    """The file that errors are reported of: the COCO JSON file, or ``data.yaml`` in a YOLO folder."""
    images: Path
    read: Callable[[], Parsed]
    labels: Path | None = None
    """A folder of label files in a layout with one text file an image."""
    optional: bool = False
    """Named by the dataset and not there, as test splits often are: an error only when it is asked for."""
    certain: bool = True
    """False for what only looks like an annotation file; it counts when nothing else is found."""

    @property
    def convention(self) -> Convention:
        """How its files state boxes."""
        return "sizes" if self.labels is None else "shares"

    def parse(self) -> Parsed:
        """Parse the split without dropping anything.

        Raises:
            UserError: when a folder of it is missing or its annotation file is unreadable.
        """
        return self.read()


@dataclass
class Conversion:
    """What was written."""

    images: int = 0
    boxes: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Boxes that the target layout cannot hold: reason -> count."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Images left out on request: file -> why."""


class Layout(Protocol):
    """What a file in ``layouts/`` defines; the file's name is the layout's.

    Attributes:
        NEEDS: what a folder of this layout has in it, for the error message of a folder of none.
    """

    NEEDS: str

    def find(self, folder: Path) -> list[Split]:
        """The splits of a folder of this layout, or of a file that describes one; empty when it is of another one."""
        ...

    def write(self, splits: Sequence[Dataset], folder: Path, conversion: Conversion) -> list[Path]:
        """Write the annotations of ``splits`` into an empty folder, count boxes, return each split's image folder."""
        ...


@cache
def known_layouts() -> dict[str, Layout]:
    """The layouts by name, in the order in which a folder is compared with them."""
    names = [module.name for module in pkgutil.iter_modules(layouts.__path__)]
    return {name: cast(Layout, importlib.import_module(f"{layouts.__name__}.{name}")) for name in sorted(names)}


def find_splits(folder: Path) -> dict[str, Split]:
    """The splits of a dataset by name; all have the same layout.

    Args:
        folder: the dataset's folder, or the file in it that describes the dataset (``data.yaml``, a COCO JSON file).

    Raises:
        UserError: when the folder is missing, has none of the known layouts, or may be read in several ways.
    """
    splits = {split.name: split for split in _recognised(folder)[1]}
    return {name: split for name, split in splits.items() if not split.optional} or splits


def find_layout(folder: Path) -> str:
    """The name of the layout that a dataset folder has.

    Raises:
        UserError: as :func:`find_splits`.
    """
    return _recognised(folder)[0]


def find_split(folder: Path, name: str | None = None) -> Split:
    """One split: the named one ('val' and 'valid' mean the same), else the only one, else the training split.

    Raises:
        UserError: when there is no such split.
    """
    splits = find_splits(folder)
    if name is None:
        if len(splits) == 1:
            return next(iter(splits.values()))
        training = [split for split in splits.values() if split.name.startswith("train")]
        if len(training) == 1:
            return training[0]
        raise UserError(f"{folder} has the splits {', '.join(splits)}; choose one.")
    for split in (*splits.values(), *_recognised(folder)[1]):
        if split.name in (name, _ALIASES.get(name)):
            return split
    raise UserError(f"{folder} has no split {name!r}; it has {', '.join(splits)}.{suggest(name, splits)}")


def _recognised(folder: Path) -> tuple[str, list[Split]]:
    """The layout of a dataset and its splits.

    Raises:
        UserError: when there is none, or more than one.
    """
    if not folder.exists():
        raise UserError(f"{folder} is not a folder; give the folder of a dataset.")
    found = {name: splits for name, layout in known_layouts().items() if (splits := layout.find(folder))}
    certain = {name: splits for name, splits in found.items() if any(split.certain for split in splits)}
    chosen = certain or found
    if not chosen:
        *most, last = [layout.NEEDS for layout in known_layouts().values()]
        what = "dataset folder" if folder.is_dir() else "dataset"
        raise UserError(f"{folder} is not a {what}: it needs {', '.join(most)} or {last}.")
    if len(chosen) > 1:
        ways = ", or ".join(f"{name} by {splits[0].annotations}" for name, splits in chosen.items())
        raise UserError(f"{folder} may be read as {ways}; give one of these files instead of the folder.")
    return next(iter(chosen.items()))
