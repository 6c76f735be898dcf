"""The pictures of lowest confidence, kept as a COCO dataset: the next ones to label.

The folder is ``annotations/instances_train.json`` and ``train/``. What was detected is written as annotations with
``"proposal": true`` and their ``score``: something to correct in an annotation tool, and no truth yet, which reading
the dataset says.
"""

import heapq
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detheads.deploy.detector import Detections, Detector, Prepared
from detheads.deploy.monitor.monitor import Views
from detheads.foundation import atomic
from detheads.foundation.claims import Kind, claimed
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import ClassEntry
from detheads.foundation.reading import read_json
from detheads.foundation.text import visible

SPLIT: Final = "train"
ANNOTATIONS: Final = f"annotations/instances_{SPLIT}.json"
MOST: Final = 10_000
"""Pictures that may be kept."""
SECONDS: Final = 2.0
"""Between two writings of the annotations, which hold all that is kept."""
QUALITY: Final = 95
"""Of JPEG: what is trained on should not have been coded twice so that one sees it."""
APART: Final = 50
"""Of so many pictures in a row that show one view, one is kept at most."""
KEPT: Final = Kind("kept.json", "a set of pictures to label", "keeping pictures in")


def doubt(found: Detections, shown_from: NDArray[np.floating]) -> float:
    """How uncertain the detections of a picture are, 0..1: the mean of their margins.

    The margin of a score is that of Brust et al. 2019 (arXiv:1809.09875), ``(1 - |p - (1 - p)|)^2``, with ``p`` 0.5
    where its class is shown from. Scores below half of that are background and count for nothing.

    Args:
        shown_from: the score from which each class is shown, ``[K]``.
    """
    least = np.asarray(shown_from, dtype=np.float64)[found.labels].clip(1e-6, 1 - 1e-6)
    scores = found.scores.astype(np.float64)
    shares = np.where(scores < least, scores / least / 2, 0.5 + (scores - least) / (1 - least) / 2)
    counted = shares[shares >= 0.25]
    return float(((1 - np.abs(2 * counted - 1)) ** 2).mean()) if len(counted) else 0.0


@dataclass(order=True)
class _Entry:
    """A kept picture; the least doubtful is the first of a heap."""

    doubt: float
    number: int
    image: dict[str, Any] = field(compare=False)
    proposals: list[dict[str, Any]] = field(compare=False)
    turn: int = field(compare=False, default=-1)
    """Which turn of a view it is of; see :data:`APART`."""


class Keeper:
    """Keeps the pictures of lowest confidence, so many at most. Threads may share it.

    The folder is a whole dataset at every moment: a picture is written before the annotations name it, and removed
    after they no longer do; they are written every :data:`SECONDS` at most, and by :meth:`flush`.

    Attributes:
        folder: where they are kept.
    """

    def __init__(
        self, folder: Path, most: int, classes: Sequence[ClassEntry], shown_from: NDArray[np.floating]
    ) -> None:
        self.folder, self._most, self._classes, self._shown_from = folder, most, list(classes), shown_from
        self._lock = threading.Lock()
        self._views, self._turn = Views(), 0
        self._heap = _read(folder, self._classes)
        heapq.heapify(self._heap)
        self._next = max((entry.number for entry in self._heap), default=0) + 1
        self._gone = [heapq.heappop(self._heap) for _ in range(len(self._heap) - most)]
        self._written_at, self._written_as = 0.0, _stamp(folder)
        self.flush()
        self._sweep()

    def __len__(self) -> int:
        return len(self._heap)

    def see(self, load: Callable[[], Image.Image], prepared: Prepared, found: Detections) -> bool:
        """Keep a picture if it is among the most doubtful so far; whether it was.

        Args:
            load: gives the RGB picture in full size, where it is kept.
            found: all that the graph found in it.
        """
        value = doubt(found, self._shown_from)
        with self._lock:
            if self._views.see(prepared) or self._views.repeats % APART == 0:
                self._turn += 1
            rival = next((entry for entry in self._heap if entry.turn == self._turn), None)
            full = len(self._heap) >= self._most
            if value <= max(rival.doubt if rival else 0.0, self._heap[0].doubt if full and not rival else 0.0):
                return False
            entry = self._written(load(), found, value)
            if rival is not None:
                self._heap.remove(rival)
                self._gone.append(rival)
            self._heap.append(entry)
            heapq.heapify(self._heap)
            if len(self._heap) > self._most:
                self._gone.append(heapq.heappop(self._heap))
            if time.monotonic() - self._written_at > SECONDS:
                self._write()
        return True

    def flush(self) -> None:
        """Write the annotations of all that is kept.

        Raises:
            UserError: when somebody else has written them meanwhile.
        """
        with self._lock:
            self._write()

    def _written(self, image: Image.Image, found: Detections, value: float) -> _Entry:
        number, self._next = self._next, self._next + 1
        name = f"{number:08d}.jpg"
        with atomic.replacing(self.folder / SPLIT / name) as partial:
            image.save(partial, format="JPEG", quality=QUALITY, subsampling=0)
        shown = found.above(self._shown_from)
        proposals = [
            {
                "category_id": self._classes[label].id,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
                "score": score,
                "proposal": True,
            }
            for (x1, y1, x2, y2), score, label in zip(
                shown.boxes.tolist(), shown.scores.tolist(), shown.labels.tolist(), strict=True
            )
        ]
        described = {"id": number, "file_name": name, "width": image.width, "height": image.height, "doubt": value}
        return _Entry(value, number, described, proposals, self._turn)

    def _write(self) -> None:
        if _stamp(self.folder) != self._written_as:
            raise UserError(
                f"{self.folder / ANNOTATIONS} was changed while pictures were kept there, perhaps by labelling them; "
                "it is left as it is: keep new ones in another folder."
            )
        entries = sorted(self._heap, key=lambda entry: entry.number)
        annotations = [
            {"id": number, "image_id": image_id, **proposal}
            for number, (image_id, proposal) in enumerate(
                ((entry.number, proposal) for entry in entries for proposal in entry.proposals), start=1
            )
        ]
        document = {
            "info": {"description": "pictures of lowest confidence; the annotations are proposals to be corrected"},
            "images": [entry.image for entry in entries],
            "annotations": annotations,
            "categories": [{"id": entry.id, "name": entry.name} for entry in self._classes],
        }
        atomic.write_json(self.folder / ANNOTATIONS, document, indent=None)
        for entry in self._gone:
            (self.folder / SPLIT / entry.image["file_name"]).unlink(missing_ok=True)
        self._gone.clear()
        self._written_at, self._written_as = time.monotonic(), _stamp(self.folder)

    def _sweep(self) -> None:
        """Remove pictures of a killed process that nothing names."""
        named = {entry.image["file_name"] for entry in self._heap}
        for path in (self.folder / SPLIT).glob("*.jpg"):
            if path.stem.isdecimal() and path.name not in named:
                path.unlink()


@contextmanager
def keeping(folder: Path, most: int, detector: Detector) -> Iterator[Keeper]:
    """A keeper of the pictures that a detector sees, in a folder that is new or goes on from an earlier process.

    Raises:
        UserError: when the folder holds something else or pictures of other classes, another process keeps pictures in
            it, or ``most`` is not from 1 to :data:`MOST`.
    """
    if not 1 <= most <= MOST:
        raise UserError(f"from 1 to {MOST} pictures can be kept, not {most}.")
    classes = [[entry.id, entry.name] for entry in detector.classes]
    with claimed(folder, KEPT, {"classes": classes}):
        (folder / SPLIT).mkdir(exist_ok=True)
        keeper = Keeper(folder, most, detector.classes, detector.draw_scores)
        try:
            yield keeper
        finally:
            keeper.flush()


def _stamp(folder: Path) -> tuple[int, ...]:
    """By which a change of the annotations is told."""
    try:
        found = (folder / ANNOTATIONS).stat()
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(folder: Path, classes: Sequence[ClassEntry]) -> list[_Entry]:
    """The entries of an earlier process whose pictures are still there."""
    path = folder / ANNOTATIONS
    if not path.is_file():
        return []
    document = read_json(path)
    try:
        entries = {
            int(image["id"]): _Entry(float(image["doubt"]), int(image["id"]), image, []) for image in document["images"]
        }
        for annotation in document["annotations"]:
            if annotation["proposal"] is not True:
                raise ValueError("an annotation is no proposal")
            proposal = {key: value for key, value in annotation.items() if key not in {"id", "image_id"}}
            entries[int(annotation["image_id"])].proposals.append(proposal)
        kept = [
            entry for entry in entries.values() if atomic.inside(folder / SPLIT, entry.image["file_name"]).is_file()
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is not what was written there ({visible(str(error))}): the pictures may have been labelled; keep "
            "new ones in another folder."
        ) from None
    return kept
