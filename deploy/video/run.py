"""Run a bundle over a video, a stream or a camera: decoding, inference and writing overlap, memory stays flat."""

import importlib
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from PIL import Image

from detheads.deploy.detections import Detections
from detheads.deploy.detector import Detector, Prepared
from detheads.deploy.monitor.observer import NOBODY, Observer
from detheads.deploy.video.outputs import Outputs, Seen
from detheads.deploy.video.reader import Counts, Frame, Reader
from detheads.deploy.video.settings import VideoOptions
from detheads.deploy.video.sources import VideoSource
from detheads.deploy.writers import NAMES, Format
from detheads.foundation import atomic
from detheads.foundation.ahead import map_ahead
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Remark, unheard

BEHIND: Final = 2
"""Frames that wait to be drawn and written."""

_TURNS: Final = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
"""Counterclockwise, as FFmpeg tells the angle."""

Told = Callable[[int, int, Counts], None]
"""Called with the frames that were run, those there are to run (0: not known), and what became of the others."""


@dataclass(frozen=True)
class VideoResult:
    """What a run over a video wrote.

    Attributes:
        results: files of results, by their form.
        annotated: None where none was asked for.
        frames: that were run and written.
        full: frames that filled the graph's table of rows, so that there may be more in them.
        resized: frames that the annotated video holds in another size than their own.
        tracks: objects that were numbered; None without tracking.
        counts: what became of the other frames, and why there were no more.
        seconds: of the whole run; ``inference``: in the model; ``waiting``: for decoded frames; ``writing``: tracking,
            drawing, encoding, which happens at the same time.
    """

    folder: Path
    results: dict[Format, Path]
    annotated: Path | None
    encoder: str
    live: bool
    frames: int
    detections: int
    full: int
    resized: int
    tracks: int | None
    counts: Counts
    seconds: float
    inference: float
    waiting: float
    writing: float

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it and ``summary.json`` holds it."""
        return {
            "folder": str(self.folder),
            "results": {form: str(path) for form, path in self.results.items()},
            "annotated": None if self.annotated is None else str(self.annotated),
            "encoder": self.encoder,
            "live": self.live,
            "frames": self.frames,
            "detections": self.detections,
            "full_tables": self.full,
            "resized": self.resized,
            "tracks": self.tracks,
            **asdict(self.counts),
            "timing": {
                "seconds": round(self.seconds, 4),
                "frames_per_second": round(self.frames / self.seconds, 3),
                "inference_ms": round(1000 * self.inference / self.frames, 3),
                "waiting_ms": round(1000 * self.waiting / self.frames, 3),
                "writing_ms": round(1000 * self.writing / self.frames, 3),
            },
        }


@dataclass
class _Spent:
    inference: float = 0.0
    waiting: float = 0.0


def run_video(
    detector: Detector,
    source: VideoSource,
    folder: Path,
    options: VideoOptions,
    *,
    stopped: Callable[[], bool] = lambda: False,
    observer: Observer = NOBODY,
    on_frame: Told = lambda run, expected, counts: None,
    on_remark: Remark = unheard,
) -> VideoResult:
    """Detect objects in the frames of ``source`` and write ``folder``, which must be new or empty.

    Every frame of a recording is run. Of a live source that is faster than the model the newest are, unless
    ``reading.live`` says otherwise; how many are dropped stands in the result. Whatever ends the run, what was found
    until then is written: ``counts.ended`` says why. The files have ``.partial`` in their names while they are written;
    a killed process leaves JSON lines and a video that can be read up to about where it was.

    Args:
        stopped: asked every now and then whether to end; the files are finished then.
        observer: sees every frame that is run, and all that was found in it.

    Raises:
        UserError: when the source cannot be opened or holds no frame that can be decoded, ``folder`` is in use, or
            something cannot be written in it.
    """
    atomic.try_output(folder, folder=True)
    if options.track:  # which takes a second to import: of a live source, frames would be lost meanwhile
        importlib.import_module("detheads.deploy.video.tracking")
    begin, spent = time.perf_counter(), _Spent()
    with ExitStack() as stack:
        reader = stack.enter_context(Reader(source, options.reading, batch=options.batch, stopped=stopped))
        outputs = stack.enter_context(Outputs(detector, folder, options, reader, on_remark))
        found = stack.enter_context(closing(_found(detector, reader, options.batch, spent, observer)))
        written = stack.enter_context(closing(map_ahead(outputs.write, found, ahead=BEHIND)))
        for number, _ in enumerate(written, start=1):
            on_frame(number, reader.expected, reader.counts)
        if not outputs.frames:
            none = "was stopped before its first frame" if reader.counts.ended == "interrupted" else "has no frame"
            raise UserError(f"{reader.counts.trouble or f'{source.name} {none}'}; nothing was written.")
        annotated = outputs.finish()
        result = VideoResult(
            folder,
            {form: folder / NAMES[form] for form in options.formats},
            annotated,
            outputs.encoder,
            reader.live,
            outputs.frames,
            outputs.detections,
            outputs.full,
            outputs.resized,
            outputs.tracks,
            reader.counts,
            time.perf_counter() - begin,
            spent.inference,
            spent.waiting,
            outputs.seconds,
        )
        atomic.write_json(folder / "summary.json", result.to_dict())
    return result


def _found(
    detector: Detector, reader: Reader, batch: int, spent: _Spent, observer: Observer
) -> Generator[Seen, None, None]:
    """Every frame with what the graph finds in it."""

    def prepared(frame: Frame) -> tuple[Frame, Image.Image, Prepared]:
        image = upright(frame.picture)
        return frame, image, detector.prepare(image)

    # Frames prepared ahead of a live source would be older ones than are there when the model is free.
    with closing(map_ahead(prepared, reader, ahead=0 if reader.live else batch)) as ready:
        while True:
            begin = time.perf_counter()
            chunk = list(islice(ready, batch))
            spent.waiting += time.perf_counter() - begin
            if not chunk:
                return
            begin = time.perf_counter()
            found: list[Detections] = detector.run([entry for _, _, entry in chunk])
            spent.inference += time.perf_counter() - begin
            for (frame, image, entry), each in zip(chunk, found, strict=True):
                observer.see(image.copy, entry, each)
                yield Seen(frame, image, each)


def upright(picture: Any) -> Image.Image:
    """A decoded frame in RGB, turned as its video says it is shown."""
    image: Image.Image = picture.to_image()
    turn = _TURNS.get(round(picture.rotation / 90) * 90 % 360)
    return image if turn is None else image.transpose(turn)
