"""The annotated video: H.264 in MP4, frame for frame at the times of the source."""

from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
from av.video.frame import PictureType
from PIL import Image

from detheads.foundation.errors import UserError

ENCODERS: Final = ("libx264", "libopenh264", "h264_videotoolbox", "h264_mf", "mpeg4")
"""The first that the installed FFmpeg has and that takes the video is used."""
OPTIONS: Final = {"libx264": {"preset": "veryfast", "crf": "23", "bf": "0"}}
"""Without B frames the first frame is at time 0, also in a file that was never finished."""
FINEST: Final = {"mpeg4": 65_535}
"""Ticks a second that an encoder can count, where that is less than MP4 can."""
FRAGMENTS: Final = {"movflags": "hybrid_fragmented+frag_keyframe", "flush_packets": "1"}
"""Such a file can be played up to its last key frame though its writer was killed, and is an ordinary MP4 once closed
(FFmpeg 7.1 and later)."""
_FRAGMENTS_SINCE: Final = (61, 7)
KEY_SECONDS: Final = 2
"""Between key frames at most, so that a player can jump and a killed run has lost no more."""


class AnnotatedVideo:
    """A video file in the making; its size is that of its first frame.

    Args:
        time_base: seconds a tick of the source's clock, which the file keeps.
        rate: frames a second of the source as far as known.
        aspect: width of a pixel over its height.

    Attributes:
        encoder: FFmpeg's name of what encodes it; empty before the first frame.
        resized: frames of another size than the first, which were made to fit.
    """

    def __init__(self, path: Path, time_base: Fraction, rate: Fraction | None, aspect: Fraction | None) -> None:
        self._path, self._time_base, self._aspect = path, time_base, aspect
        self._rate = Fraction(rate or 25).limit_denominator(1001)
        self._container: Any = None
        self._stream: Any = None
        self._last = -1
        self._key: Fraction | None = None
        self._broken: UserError | None = None
        self.encoder = ""
        self.resized = 0

    def write(self, image: Image.Image, time: Fraction) -> None:
        """Add an RGB frame at ``time`` in seconds.

        Raises:
            UserError: when no encoder takes it, or the file cannot be written.
        """
        if self._broken is not None:
            raise self._broken
        if self._container is None:
            self._open(image.size)
        size = (self._stream.width, self._stream.height)
        if image.size != size:
            self.resized += 1
            image = image.resize(size, Image.Resampling.BILINEAR)
        frame = av.VideoFrame.from_image(image)
        self._last = max(self._last + 1, round(time / self._time_base))
        frame.pts, frame.time_base = self._last, self._time_base
        if self._key is None or time - self._key >= KEY_SECONDS:
            frame.pict_type, self._key = PictureType.I, time
        self._mux(frame)

    def close(self) -> None:
        """Finish the file, when there was a frame."""
        if self._container is not None and self._broken is None:
            self._mux(None)
            try:
                self._container.close()
            except (av.FFmpegError, OSError) as error:
                raise self._failure(error) from None

    def _mux(self, frame: Any) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._failure(error) from None

    def _open(self, size: tuple[int, int]) -> None:
        reasons = []
        for encoder in ENCODERS:
            if encoder not in av.codecs_available:
                continue
            try:
                self._try(encoder, size)
            except (av.FFmpegError, ValueError) as error:
                reasons.append(f"{encoder}: {getattr(error, 'strerror', None) or error}")
                self._container.close()
                continue
            self.encoder = encoder
            return
        self._container = None
        raise UserError(
            f"no encoder here takes frames of {size[0]}x{size[1]} pixels ({'; '.join(reasons) or 'there is none'}); "
            "run without the annotated video: --no-pictures."
        )

    def _try(self, encoder: str, size: tuple[int, int]) -> None:
        finest = FINEST.get(encoder)
        if finest is not None and self._time_base.denominator > finest:
            self._time_base = Fraction(1, finest)
        options = FRAGMENTS if av.library_versions["libavformat"] >= _FRAGMENTS_SINCE else {}
        self._container = av.open(str(self._path), "w", format="mp4", container_options=dict(options))
        stream = self._container.add_stream(encoder, rate=self._rate, options=dict(OPTIONS.get(encoder, {})))
        stream.width, stream.height = size
        # With 4:2:0 a sample of colour is of 2x2 pixels, which H.264 does not share out at an odd edge.
        stream.pix_fmt = "yuv444p" if encoder == "libx264" and (size[0] % 2 or size[1] % 2) else "yuv420p"
        stream.time_base = stream.codec_context.time_base = self._time_base
        if self._aspect:
            stream.codec_context.sample_aspect_ratio = self._aspect
        stream.codec_context.open()
        self._stream = stream

    def _failure(self, error: Exception) -> UserError:
        said = getattr(error, "strerror", None) or error
        # FFmpeg crashes when a file is gone on with whose beginning could not be written.
        self._broken = UserError(f"{self._path} cannot be written ({said}); make room or run with --no-pictures.")
        return self._broken
