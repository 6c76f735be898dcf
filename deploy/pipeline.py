"""Pictures through decoding, letterbox, graph and drawing, which all run at the same time, in order."""

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from PIL import Image

from detheads.deploy.annotated import AnnotatedPictures
from detheads.deploy.detector import Detections, Detector, Prepared
from detheads.deploy.inputs import InputImage
from detheads.deploy.monitor.observer import NOBODY, Observer
from detheads.deploy.tiles import Tiling, run_tiled
from detheads.deploy.unfinished import entry_of, key_of
from detheads.deploy.writers import Record
from detheads.foundation.ahead import map_ahead
from detheads.foundation.cores import available_cores
from detheads.foundation.errors import UserError
from detheads.foundation.progress import unheard

MOST_DECODERS = 8
"""Threads that decode, one for each core at most; as many pictures wait, which bounds the memory."""


@dataclass
class Timing:
    """What the parts of a run took, in seconds. They overlap, so that their sum may exceed the total."""

    decode: float = 0.0
    """Reading, decoding and resizing, of all threads."""
    inference: float = 0.0
    """With tiles, their letterbox and merging too."""
    draw: float = 0.0
    """Drawing and encoding annotated pictures."""
    total: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Add what the block takes to ``part``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - start
            with self._lock:
                setattr(self, part, getattr(self, part) + took)


@dataclass(frozen=True)
class Done:
    """A picture that went through.

    Attributes:
        result: its record, or why it could not be read.
        entry: for the journal.
        remarks: what is unusual about its file.
    """

    source: InputImage
    result: Record | str
    entry: bytes
    remarks: Sequence[str]


@dataclass(frozen=True)
class _Ready:
    """A decoded picture; ``image`` only where it is needed later, since it may be large."""

    source: InputImage
    key: list[Any]
    size: tuple[int, int] = (0, 0)
    prepared: Prepared | None = None
    image: Image.Image | None = None
    failure: str = ""
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Pipeline:
    """How pictures are run.

    Attributes:
        keep: what is kept of the detections of a picture.
        batch: pictures in one run of the graph; with tiles, tiles.
        tiling: how they are cut; not at all when None.
        annotated: where they are drawn; nowhere when None.
        timing: is added to.
        observer: sees every picture and all that was found in it.
    """

    detector: Detector
    keep: Callable[[Detections], Detections]
    batch: int
    tiling: Tiling | None
    annotated: AnnotatedPictures | None
    timing: Timing
    observer: Observer = NOBODY

    @property
    def together(self) -> int:
        """Pictures that go through the graph together; with tiles each goes alone."""
        return 1 if self.tiling else self.batch

    def run(self, sources: Sequence[InputImage]) -> Iterator[Done]:
        """Run pictures; the results come in their order.

        Decoding is ahead by one batch and one picture a core; one picture waits to be drawn.
        """
        threads = min(available_cores(), MOST_DECODERS)
        decoded = map_ahead(self._decode, sources, ahead=self.together + threads - 1, threads=threads)
        with closing(decoded), closing(self._detect(decoded)) as found:
            if self.annotated is None:
                yield from map(self._finish, found)
                return
            with closing(map_ahead(self._finish, found, ahead=1)) as finished:
                yield from finished

    def _decode(self, source: InputImage) -> _Ready:
        remarks: list[str] = []
        key = key_of(source)
        try:
            with self.timing.of("decode"):
                image = source.load(remarks.append)
                prepared = None if self.tiling else self.detector.prepare(image)
        except UserError as error:
            return _Ready(source, key, failure=str(error))
        kept = image if self.tiling or self.annotated else None
        return _Ready(source, key, image.size, prepared, kept, remarks=remarks)

    def _detect(self, decoded: Iterator[_Ready]) -> Generator[tuple[_Ready, Detections | None], None, None]:
        # A batch is of neighbours, whether or not they can be read, so that it is the same in a run that goes on.
        while chunk := list(islice(decoded, self.together)):
            with self.timing.of("inference"):
                found = iter(self._found(chunk))
            for ready in chunk:
                yield ready, None if ready.failure else next(found)
            del chunk, ready

    def _found(self, chunk: Sequence[_Ready]) -> list[Detections]:
        """The detections of those that could be read."""
        if self.tiling:
            return [run_tiled(self.detector, ready.image, self.tiling, self.batch) for ready in chunk if ready.image]
        return self.detector.run([ready.prepared for ready in chunk if ready.prepared])

    def _finish(self, item: tuple[_Ready, Detections | None]) -> Done:
        ready, every = item
        source = ready.source
        result: Record | str = ready.failure
        if every is not None:
            if self.observer:
                load = ready.image.copy if ready.image else partial(source.load, unheard)
                self.observer.see(load, ready.prepared or self.detector.prepare(load()), every)
            if self.annotated is not None and ready.image is not None:
                with self.timing.of("draw"):
                    self.annotated.write(source.id, ready.image, every)
            result = Record(source.id, source.name, *ready.size, self.keep(every))
        return Done(source, result, entry_of(ready.key, result), ready.remarks)
