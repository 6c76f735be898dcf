"""Opening a source with time-outs; what FFmpeg says of a failure becomes one sentence."""

import time
from dataclasses import dataclass
from typing import Any, Final

import av
from av.stream import Disposition

from detheads.deploy.video.settings import TIMEOUT
from detheads.deploy.video.sources import VideoSource
from detheads.foundation.errors import UserError
from detheads.foundation.images import MAX_PIXELS

UNTIMED: Final = frozenset({"h264", "hevc", "m4v", "mjpeg", "mpjpeg"})
"""Formats without times of their own: FFmpeg counts their frames as if 25 came in a second."""
DECODERS: Final = 4
"""Threads of a file's decoder at most: each holds a frame, and decoding is faster than most models already."""


@dataclass(frozen=True)
class Opened:
    """An open source.

    Attributes:
        live: it goes on as time does, and what is not read is lost: a camera, or a stream without an end.
    """

    container: Any
    stream: Any
    live: bool

    @property
    def timed(self) -> bool:
        """Whether frames say themselves when they were taken."""
        return not (self.live and self.container.format.name in UNTIMED)


def open_source(source: VideoSource, timeout: float = TIMEOUT) -> Opened:
    """Open a source and find its video.

    Raises:
        UserError: when it cannot be opened in time, holds no video, or one that cannot be decoded or is too large.
    """
    begin = time.monotonic()
    bounds = None if source.kind == "file" else (timeout, timeout)
    try:
        container = av.open(source.address, format=source.format, options=dict(source.options), timeout=bounds)
    except (av.FFmpegError, ValueError) as error:
        if bounds is not None and time.monotonic() - begin >= timeout:
            raise UserError(f"{source.name} did not answer within {timeout:g} s; check that it is sending.") from None
        raise UserError(_why(source, error)) from None
    try:
        return _opened(source, container)
    except BaseException:
        container.close()
        raise


def _opened(source: VideoSource, container: Any) -> Opened:
    pictures = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not pictures:
        raise UserError(f"{source.name} holds no video; give one that does.")
    stream = pictures[0]
    context = stream.codec_context
    if context is None:
        raise UserError(f"{source.name} is encoded in a way that PyAV cannot decode here; convert it to H.264.")
    if context.width * context.height > MAX_PIXELS:
        raise UserError(
            f"{source.name} has frames of {context.width}x{context.height} pixels, more than {MAX_PIXELS:,}; shrink it "
            "first."
        )
    context.options = {"max_pixels": str(MAX_PIXELS)}  # for frames that turn out larger than the header says
    live = source.kind == "camera" or (source.kind == "stream" and not container.duration)
    context.thread_type = "SLICE" if live else "AUTO"  # threads that take a frame each deliver frames late
    context.thread_count = DECODERS
    return Opened(container, stream, live)


def _is_cover(stream: Any) -> bool:
    """Whether a stream is a still picture, as music files have it."""
    return bool(stream.disposition & Disposition.attached_pic)


def _why(source: VideoSource, error: Exception) -> str:
    """FFmpeg's words, and what to do. They never hold the address, which may hold a password."""
    said = str(getattr(error, "strerror", None) or "it is not understood").strip()
    if source.kind == "camera":
        advice = "check that it is plugged in, free, and yours to read (on Linux: in the group video)"
    elif source.kind == "stream":
        advice = "check address, password and that it is sending"
    else:
        advice = "it is no video that is read here, or cut off or encrypted; convert it to MP4 or fetch it again"
    return f"{source.name} cannot be opened ({said}); {advice}."
