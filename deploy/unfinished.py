"""A run over many pictures that goes on where it was stopped.

While a run lasts, its results lie in a hidden folder ``.NAME.unfinished`` beside the output folder, with a journal that
has an entry for each picture that is done, in the order of the pictures. The files of results are written from the
journal at the end, so that a run in pieces gives what one in a single piece gives.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from detheads.deploy.detections import Detections
from detheads.deploy.inputs import UNFINISHED, InputImage
from detheads.deploy.writers import Record
from detheads.foundation import locks
from detheads.foundation.claims import Kind, Stage, claimed, require_new
from detheads.foundation.progress import Remark

RUN: Final = Kind("run.json", "an unfinished run", "writing", "remove it or choose another folder with -o")
RESULTS: Final = "results"
"""What becomes the output folder."""
JOURNAL: Final = "journal"

ROW: Final = np.dtype([("box", "<f8", 4), ("score", "<f4"), ("label", "<i4")])
"""A detection in the journal. As JSON its numbers took as long as 2 % of a run of a small model."""


class Journal:
    """What is done of a run. An entry is a line of JSON, which tells the picture and how many rows follow, and these.

    Attributes:
        results: folder that becomes the output.
        done: pictures that need not be run again: the first ones.
        read: how many of them could be read.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / JOURNAL
        self.results = folder / RESULTS
        self.done = self.read = self._size = 0

    def find_done(
        self, inputs: Sequence[InputImage], batch: int, still_good: Callable[[InputImage, bool], bool]
    ) -> None:
        """Look which of the first pictures are done; whole batches count, since a batch may round as another does not.

        A picture is not, and none behind it, when it is another one than the journal's (by id, name, place, size and
        time of change), and when its entry is not whole.

        Args:
            still_good: of a picture and whether it was left out; False when it is to be run again.
        """
        if not self.results.is_dir():  # what was stopped after its results were published, and then removed
            self._path.unlink(missing_ok=True)
            self.results.mkdir()
        if not self._path.exists():
            return
        read = 0
        with self._path.open("rb") as stream:
            for number, source in enumerate(inputs, start=1):
                entry = _next(stream)
                if entry is None or entry[0]["key"] != key_of(source) or not still_good(source, "skipped" in entry[0]):
                    break
                read += "skipped" not in entry[0]
                if number % batch == 0 or number == len(inputs):
                    self.done, self.read, self._size = number, read, stream.tell()

    @contextmanager
    def writing(self) -> Iterator[Callable[[bytes, bool], None]]:
        """A function that adds an entry, and whether that picture was read.

        Each is with the system before it returns, and so survives a killed process.
        """
        with self._path.open("ab", buffering=0) as stream:
            stream.truncate(self._size)

            def add(entry: bytes, read: bool) -> None:
                stream.write(entry)
                self.done, self.read = self.done + 1, self.read + read

            yield add

    def entries(self, class_names: Sequence[str]) -> Iterator[Record | str]:
        """What became of each picture, in order: its record, or the sentence why it was left out."""
        with self._path.open("rb") as stream:
            while (entry := _next(stream)) is not None:
                told, rows = entry
                if "skipped" in told:
                    yield told["skipped"]
                    continue
                names = tuple(class_names[label] for label in rows["label"].tolist())
                found = Detections(rows["box"], rows["score"], rows["label"], names, told["full"])
                width, height = told["size"]
                yield Record(told["key"][0], told["key"][1], width, height, found)


@contextmanager
def unfinished(target: Path, described: Mapping[str, Any], on_remark: Remark) -> Iterator[Journal]:
    """Work on the results of a run, alone; they become ``target``, new or empty, when the block ends without an error.

    Whatever ends the block before, what the journal holds is kept for a later run that is described alike. Nothing
    stays where it holds no picture that was read.

    Args:
        described: JSON values that make it another run when they differ.

    Raises:
        UserError: when ``target`` is in use, another process works on it, or an unfinished run of it is described
            otherwise.
    """
    target = target.resolve()  # so that '.' has a name and a parent
    require_new(target)
    workshop = target.with_name(UNFINISHED.format(target.name))
    with claimed(workshop, RUN, described):
        require_new(target)  # another process may have finished while this one waited
        journal = Journal(workshop)
        try:
            yield journal
        except BaseException:
            if journal.read:
                on_remark(f"{journal.done} pictures are done and kept; run the same command again to go on")
            else:
                locks.remove(journal.results)
                (workshop / JOURNAL).unlink(missing_ok=True)
            raise
        Stage(journal.results, target, require_new).publish()
        locks.remove(workshop)


def key_of(source: InputImage) -> list[Any]:
    """What tells a picture from another one."""
    try:
        status = source.path.stat()
    except OSError:
        return [source.id, source.name, str(source.path.absolute()), None, None]
    return [source.id, source.name, str(source.path.absolute()), status.st_size, status.st_mtime_ns]


def entry_of(key: Sequence[Any], result: Record | str) -> bytes:
    """A picture's entry in the journal.

    Args:
        key: of :func:`key_of`, before the picture was read.
        result: its record, or why it was left out.
    """
    if isinstance(result, str):
        return _line({"key": key, "skipped": result, "rows": 0})
    found = result.found
    rows = np.empty(len(found), ROW)
    rows["box"], rows["score"], rows["label"] = found.boxes, found.scores, found.labels
    told = {"key": key, "size": [result.width, result.height], "full": found.full, "rows": len(rows)}
    return _line(told) + rows.tobytes()


def _line(told: Mapping[str, Any]) -> bytes:
    return json.dumps(told).encode() + b"\n"


def _next(stream: IO[bytes]) -> tuple[dict[str, Any], NDArray[Any]] | None:
    """The entry that begins here; None at the end, and where an entry has no end."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    try:
        told = json.loads(line)
    except ValueError:  # a machine that lost its power
        return None
    data = stream.read(told["rows"] * ROW.itemsize)
    return (told, np.frombuffer(data, ROW)) if len(data) == told["rows"] * ROW.itemsize else None
