"""Which layout a dataset folder has, and where the parts of its splits lie."""

import importlib
import pkgutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol, cast

from detheads.data import layouts
from detheads.data.dataset import Dataset
from detheads.data.parsed import Parsed
from detheads.foundation.errors import UserError

_ALIASES = {"val": "valid", "valid": "val"}


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
    """The folder of label files in a layout with one text file an image."""

    def parse(self) -> Parsed:
        """Parse the split without dropping anything.

        Raises:
            UserError: when a folder of it is missing or its annotation file is unreadable.
        """
        if not self.images.is_dir():
            raise UserError(f"{self.images} is missing: the images of split {self.name!r} belong there.")
        # One label file may be absent; all of them at once is a folder in the wrong place.
        if self.labels is not None and not self.labels.is_dir():
            raise UserError(f"{self.labels} is missing: the label files of split {self.name!r} belong there.")
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
        """The splits of a folder of this layout; empty when the folder has another one."""
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
    """The splits of a dataset folder by name; all have the same layout.

    Raises:
        UserError: when the folder is missing or has none of the known layouts.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder of a dataset.")
    for layout in known_layouts().values():
        if splits := layout.find(folder):
            return {split.name: split for split in splits}
    *most, last = [layout.NEEDS for layout in known_layouts().values()]
    raise UserError(f"{folder} is not a dataset folder: it needs {', '.join(most)} or {last}.")


def find_layout(folder: Path) -> str:
    """The name of the layout that a dataset folder has.

    Raises:
        UserError: as :func:`find_splits`.
    """
    find_splits(folder)
    return next(name for name, layout in known_layouts().items() if layout.find(folder))


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
    if name in splits:
        return splits[name]
    if _ALIASES.get(name) in splits:
        return splits[_ALIASES[name]]
    raise UserError(f"{folder} has no split {name!r}; it has {', '.join(splits)}.")
