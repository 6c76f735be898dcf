"""Frames of a video or a live source, read and decoded in a thread while those before are run."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Final, Literal

import av

from detheads.deploy.video.clock import TICK, Clock
from detheads.deploy.video.mailbox import Mailbox
from detheads.deploy.video.opening import Opened, open_source
from detheads.deploy.video.settings import Reading
from detheads.deploy.video.sources import VideoSource
from detheads.foundation.errors import UserError

AHEAD: Final = 4
"""Decoded frames that wait to be run, unless they are too large."""
WAITING_PIXELS: Final = 100_000_000
"""Of all frames together that wait: 4 of 6K, one of 16K; a decoded pixel has about 1.5 bytes."""
PATIENCE: Final = 0.1
"""Seconds between looks at whether to stop."""
BACKOFF: Final = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each try to open a lost stream again; the last one for all further tries."""
ROUNDED: Final = Fraction(1, 500)
"""Seconds by which times in a file are off at most: Matroska holds milliseconds."""
FASTEST: Final = 1000
"""Frames a second of a source; more are the ticks of its clock."""
LATE: Final = 0.5
"""Seconds that the last frame of a whole file may end before the length that its header tells."""


Ended = Literal["end", "frames", "seconds", "interrupted", "damaged", "lost"]


@dataclass(frozen=True)
class Frame:
    """A decoded frame. ``number``: in the source, from 1. ``time``: seconds since the first that is run."""

    number: int
    time: Fraction
    picture: Any


@dataclass
class Counts:
    """What became of the frames of a source.

    Attributes:
        read: frames that were decoded.
        left_out: those that ``every`` and ``fps`` pass over.
        dropped: those of a live source that the model was too slow for.
        damaged: places that could not be decoded, and frames that FFmpeg had to mend.
        reconnects: how often a live source was lost and came back.
        ended: why there are no more: the ``end`` of the source, the number of ``frames`` or ``seconds`` asked for, it
            was ``interrupted``, a recording is ``damaged``, or a live source was ``lost``.
        trouble: for the last two, a sentence.
    """

    read: int = 0
    left_out: int = 0
    dropped: int = 0
    damaged: int = 0
    reconnects: int = 0
    ended: Ended = "end"
    trouble: str = ""


class Reader:
    """Opens a source and reads it in a thread. Closed, or left through ``with``, it reads no more.

    Example::

        with Reader(source, Reading(every=2)) as reader:
            for frame in reader:
                print(frame.number, float(frame.time), reader.counts.dropped)

    Args:
        batch: frames that are run at once: so many of a live source may wait.
        stopped: asked every now and then whether to end.

    Attributes:
        live: see :class:`Opened`.
        rate: frames a second; None where the source does not say.
        time_base: seconds a tick of its clock.
        aspect: width of a pixel over its height; None where the source does not say.
        expected: about so many frames will be run; 0 where that is not known.
        counts: what became of the frames.

    Raises:
        UserError: as :func:`open_source`.
    """

    def __init__(
        self, source: VideoSource, reading: Reading, *, batch: int = 1, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self.source, self._reading, self._stopped = source, reading, stopped
        self._opened = open_source(source, reading.timeout)
        stream = self._opened.stream
        self.live = self._opened.live
        rate = stream.average_rate or stream.guessed_rate
        self.rate: Fraction | None = rate if rate and rate <= FASTEST else None
        self.time_base: Fraction = TICK if self.live else stream.time_base
        self.aspect: Fraction | None = stream.sample_aspect_ratio
        self.expected = 0 if self.live else _expected(self._opened, reading)
        self.counts = Counts()
        self._clock = Clock(self.rate, live=self.live)
        self._due = Fraction(0)
        self._first = self._heard = 0.0
        pixels = max(1, stream.codec_context.width * stream.codec_context.height)
        waiting = batch if self.live else AHEAD
        self._mailbox: Mailbox[Frame] = Mailbox(
            max(1, min(waiting, WAITING_PIXELS // pixels)), newest=self.live and reading.live == "newest"
        )
        self._closing = threading.Event()
        self._outcome: tuple[Ended, str] = "end", ""
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="frames", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread, as soon as what it waits for comes or takes too long."""
        self._closing.set()
        self._mailbox.close()
        self._thread.join(2 * PATIENCE if self.live else None)

    def __iter__(self) -> Iterator[Frame]:
        """Frames in order, until the source, what was asked for, or the user ends it; :attr:`counts` says which."""
        limit, given = self._reading.max_frames, 0
        begin: Fraction | None = None
        ended: Ended | None = None
        while ended is None:
            self.counts.dropped = self._mailbox.dropped
            if self._stopped():
                ended = "interrupted"
            elif given == limit:
                ended = "frames"
            elif self.live and self._past(time.monotonic() - self._first if self._first else 0.0):
                ended = "seconds"
            elif (frame := self._mailbox.get(PATIENCE)) is not None:
                if not self.live and self._past(frame.time):
                    ended = "seconds"
                else:
                    given += 1
                    begin = frame.time if begin is None else begin
                    yield replace(frame, time=frame.time - begin)
            elif self._mailbox.ended:
                ended, self.counts.trouble = self._outcome
        self.counts.ended = ended
        self.close()
        if self._error is not None:
            raise self._error

    def _past(self, seconds: float | Fraction) -> bool:
        limit = self._reading.seconds
        return limit is not None and seconds >= Fraction(limit).limit_denominator(1000)

    def _read(self) -> None:
        try:
            while not self._closing.is_set():
                trouble = self._read_connection()
                if self._closing.is_set() or not self._goes_on(trouble):
                    break
        except BaseException as error:
            self._error = error
        finally:
            self._opened.container.close()
            self._mailbox.close()

    def _goes_on(self, trouble: str) -> bool:
        """Whether a source whose frames have ended is there again; what became of it otherwise."""
        if self.live and self._reading.reconnect > 0:
            if self._reconnected():
                return True
            trouble = f"did not come back within {self._reading.reconnect:g} s"
        if not self.live and not trouble:
            trouble = _lacking(self._opened.stream, self._clock.last) or (
                f"has {self.counts.damaged} damaged places" if self.counts.damaged else ""
            )
        if trouble:
            self._outcome = "lost" if self.live else "damaged", f"{self.source.name} {trouble}"
        return False

    def _read_connection(self) -> str:
        """Pass on the frames of what is open; how it ended, empty for its proper end."""
        self._heard = time.monotonic()
        packets = self._opened.container.demux(self._opened.stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.EOFError):
                return ""
            except (av.FFmpegError, ValueError) as error:
                return f"broke off ({getattr(error, 'strerror', None) or error})"
            try:
                pictures = packet.decode()
            except (av.FFmpegError, ValueError):
                self.counts.damaged += 1
                continue
            for picture in pictures:
                if not self._pass_on(picture, bool(packet.is_corrupt or picture.is_corrupt)):
                    return ""

    def _pass_on(self, picture: Any, corrupt: bool) -> bool:
        """Give a frame to whoever runs it, when it is one of those that are wanted; False when nobody is left."""
        self._heard = time.monotonic()
        self._first = self._first or self._heard
        own = None
        if self._opened.timed and picture.pts is not None and picture.time_base:
            own = picture.pts * picture.time_base
        moment = self._clock.of(own, self._heard)
        self.counts.read += 1
        self.counts.damaged += corrupt
        if not self._wanted(moment):
            self.counts.left_out += 1
            return not self._closing.is_set()
        return self._mailbox.put(Frame(self.counts.read, moment, picture))

    def _wanted(self, moment: Fraction) -> bool:
        if (self.counts.read - 1) % self._reading.every:
            return False
        if self._reading.fps is None:
            return True
        if moment + ROUNDED < self._due:
            return False
        period = 1 / Fraction(self._reading.fps).limit_denominator(1000)
        self._due += period * max(1, (moment + ROUNDED - self._due) // period + 1)  # no burst after a gap
        return True

    def _reconnected(self) -> bool:
        """Try to open a lost source until it is there or too much time has gone since its last frame."""
        self._opened.container.close()
        deadline = self._heard + self._reading.reconnect
        for attempt in range(1_000_000):
            left = deadline - time.monotonic()
            if left <= 0 or self._closing.wait(min(BACKOFF[min(attempt, len(BACKOFF) - 1)], left)):
                return False
            try:
                self._opened = open_source(self.source, min(self._reading.timeout, max(PATIENCE, left)))
            except UserError:
                continue
            self._clock.restart()
            self.counts.reconnects += 1
            return True
        return False


def _lacking(stream: Any, last: Fraction | None) -> str:
    """How a file ends before its header says so: of a Matroska file that was cut off, FFmpeg does not tell."""
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        length = sum(float(part) * unit for part, unit in zip(parts, (3600, 60, 1), strict=True))
    except ValueError:
        return ""
    ends = float((last or 0) + 1 / (stream.average_rate or 1))
    return f"ends after {ends:.1f} s of {length:.1f} s" if ends + LATE < length else ""


def _expected(opened: Opened, reading: Reading) -> int:
    """About how many frames of a recording will be run; 0: not known."""
    length = float((opened.container.duration or 0) / av.time_base)
    rate = float(opened.stream.average_rate or 0)
    if reading.seconds is not None and length:
        length = min(length, reading.seconds)
    wanted = rate / reading.every
    if reading.fps is not None:
        wanted = min(wanted, reading.fps)
    frames = round(length * wanted)
    return frames if reading.max_frames is None else min(frames or reading.max_frames, reading.max_frames)
