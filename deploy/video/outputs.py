"""The files of a run over a video, written frame by frame."""

import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detheads.deploy.detections import Detections
from detheads.deploy.detector import Detector
from detheads.deploy.video.annotated import AnnotatedVideo
from detheads.deploy.video.reader import Frame, Reader
from detheads.deploy.video.settings import VideoOptions
from detheads.deploy.writers import NAMES, Record, Writer, open_writer
from detheads.foundation.claims import only_process, require_new
from detheads.foundation.drawing import draw_boxes
from detheads.foundation.errors import UserError
from detheads.foundation.lettering import Lettering
from detheads.foundation.progress import Remark

if TYPE_CHECKING:
    from detheads.deploy.video.tracking import Tracks

ANNOTATED_NAME: Final = "annotated.mp4"
PARTIAL: Final = ".partial"
"""In the name of a file that is not finished."""


@dataclass(frozen=True)
class Seen:
    """A frame and what was found in it, all scores."""

    frame: Frame
    image: Image.Image
    found: Detections


class Outputs:
    """A folder of results in the making; what was not finished keeps its partial name, and nothing stays of none.

    Raises:
        UserError: when ``folder`` is in use or not empty.
    """

    def __init__(
        self, detector: Detector, folder: Path, options: VideoOptions, reader: Reader, on_remark: Remark
    ) -> None:
        self.frames = self.detections = self.full = 0
        self.resized, self.encoder, self.seconds = 0, "", 0.0
        self._detector, self._folder, self._options, self._reader = detector, folder, options, reader
        self._made = not folder.exists()
        self._places: dict[Path, Path] = {}
        classes = len(detector.class_names)
        self._lowest = np.zeros(classes, np.float32) if options.lowest is None else options.lowest
        drawn = detector.draw_scores if options.draw_score is None else np.full(classes, options.draw_score)
        self._draw_lowest = np.maximum(drawn, self._lowest)
        self._lettering = Lettering(options.font)
        if options.annotate and (sentence := self._lettering.missing(detector.class_names)):
            on_remark(sentence)
        self._tracks = _tracks(detector, reader, options) if options.track else None
        self._annotated: AnnotatedVideo | None = None
        self._writers: list[Writer] = []

    def __enter__(self) -> "Outputs":
        with ExitStack() as stack:
            stack.enter_context(only_process(self._folder, f"writing {self._folder}"))
            require_new(self._folder)
            category_ids = [entry.id for entry in self._detector.classes]
            for form in self._options.formats:
                self._writers.append(open_writer(form, self._partial(NAMES[form]), category_ids))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            for part in (self._annotated, *self._writers):
                if part is not None:
                    with suppress(UserError, OSError):  # what failed before is the error to tell
                        part.close()
            if not self.frames:
                for partial in self._places:
                    partial.unlink(missing_ok=True)
                if self._made:
                    self._folder.rmdir()

    @property
    def tracks(self) -> int | None:
        """Objects that have a number."""
        return None if self._tracks is None else self._tracks.count

    def write(self, seen: Seen) -> None:
        """Add a frame to every file."""
        begin, frame, found = time.perf_counter(), seen.frame, seen.found
        numbers = self._numbers(found, float(frame.time))
        kept = found.scores >= self._lowest[found.labels]
        tracks = None if numbers is None else numbers[kept]
        record = Record(
            frame.number,
            self._reader.source.label,
            *seen.image.size,
            found.where(kept),
            tracks,
            round(float(frame.time), 6),
        )
        for writer in self._writers:
            writer.write(record)
        if self._options.annotate:
            self._annotate(seen, numbers)
        self.frames += 1
        self.detections += len(record.found)
        self.full += found.full
        self.seconds += time.perf_counter() - begin

    def finish(self) -> Path | None:
        """Close the files and give them their names; the annotated video's, where there is one."""
        for part in (*self._writers, self._annotated):
            if part is not None:
                part.close()
        self._writers, annotated = [], self._annotated
        if annotated is not None:
            self.resized, self.encoder = annotated.resized, annotated.encoder
        self._annotated = None
        for partial, path in self._places.items():
            partial.replace(path)
        self._places = {}
        return None if annotated is None else self._folder / ANNOTATED_NAME

    def _partial(self, name: str) -> Path:
        path = self._folder / name
        partial = path.with_name(f"{path.stem}{PARTIAL}{path.suffix}")
        self._places[partial] = path
        return partial

    def _numbers(self, found: Detections, moment: float) -> NDArray[np.int64] | None:
        if self._tracks is None:
            return None
        numbers = np.full(len(found), -1, np.int64)
        wanted = np.isfinite(self._lowest[found.labels])
        numbers[wanted] = self._tracks.of(found.where(wanted), moment)
        return numbers

    def _annotate(self, seen: Seen, numbers: NDArray[np.int64] | None) -> None:
        if self._annotated is None:
            reader, aspect = self._reader, self._reader.aspect
            if aspect and seen.image.size != (seen.frame.picture.width, seen.frame.picture.height):
                aspect = 1 / aspect  # it was turned
            self._annotated = AnnotatedVideo(self._partial(ANNOTATED_NAME), reader.time_base, reader.rate, aspect)
        shown = seen.found.scores >= self._draw_lowest[seen.found.labels]
        found = seen.found.where(shown)
        names, colors = list(found.names), found.labels
        if numbers is not None:
            tracks = numbers[shown].tolist()
            names = [f"{name} #{track}" if track > 0 else name for name, track in zip(names, tracks, strict=True)]
        picture = draw_boxes(seen.image, found.boxes, names, colors, found.scores, lettering=self._lettering)
        self._annotated.write(picture, seen.frame.time)


def _tracks(detector: Detector, reader: Reader, options: VideoOptions) -> "Tracks":
    from detheads.deploy.video.tracking import Tracks

    rate = float(reader.rate or 25) / options.reading.every
    return Tracks(detector.draw_scores, rate if options.reading.fps is None else min(rate, options.reading.fps))
