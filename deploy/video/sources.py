"""Which inputs are videos, streams and cameras, and what FFmpeg is told to open them with."""

import glob
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from detheads.foundation.errors import UserError, suggest
from detheads.foundation.reading import open_regular

VIDEO_SUFFIXES: Final = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".h264", ".h265", ".hevc", ".ivf", ".m2ts", ".m4v", ".mjpeg", ".mjpg", ".mkv"}
    | {".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"}
)

SCHEMES: Final = ("http", "https", "rtmp", "rtmps", "rtsp", "rtsps", "srt", "tcp", "udp")
"""Of streams."""

_FORMATS: Final = (
    "asf,avi,dv,flv,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,mpjpeg,mxf,ogg,webm,yuv4mpegpipe"
)
"""Containers that are read. FFmpeg knows many more, among them lists that name further files (concat, HLS), with which
a file called a video could have others opened."""
_STREAM_FORMATS: Final = f"{_FORMATS},aac,hls,rtp,rtsp,sdp"
_STREAM_PROTOCOLS: Final = "crypto,http,https,httpproxy,rtmp,rtmps,rtmpt,rtp,rtsp,rtsps,srt,srtp,tcp,tls,udp"
"""What a stream may lead to: never a file of this machine."""

_URL: Final = re.compile(r"([a-z][a-z0-9+.-]+)://?", re.IGNORECASE)  # two letters at least: one is a drive of Windows
_CAMERA: Final = re.compile(r"camera:(.+)")
_DEVICE: Final = re.compile(r"/dev/video\d+")

_CAMERA_FORMATS: Final = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
_CAMERA_ADDRESSES: Final = {"linux": "/dev/video{}", "darwin": "{}:none", "win32": "video={}"}


@dataclass(frozen=True)
class VideoSource:
    """Where frames come from.

    Attributes:
        address: as FFmpeg opens it.
        name: what it is called on screen and in messages: never with a password or a query, which often holds one.
        format: FFmpeg's name of the device's kind; None where the content tells it.
        options: what FFmpeg is told besides.
    """

    kind: Literal["file", "stream", "camera"]
    address: str
    name: str
    format: str | None = None
    options: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What its frames are called in results: the name of the file alone."""
        return Path(self.name).name if self.kind == "file" else self.name


def video_source(inputs: Sequence[str]) -> VideoSource | None:
    """The video, stream or camera among the inputs of a run; None when all of them are pictures.

    Raises:
        UserError: when there is one among other inputs, when it is a stream of a kind that is not read, or when the
            file is missing or not a regular one.
    """
    if not any(map(is_video, inputs)):
        return None
    if len(inputs) > 1:
        first = shown(next(filter(is_video, inputs)))
        raise UserError(f"{first} is a video, and a run takes one of them and nothing else; run each by itself.")
    text = inputs[0]
    if camera := _CAMERA.fullmatch(text) or _DEVICE.fullmatch(text):
        return _camera(text, camera.group(1) if camera.re is _CAMERA else None)
    if (url := _URL.match(text)) and not Path(text).exists():
        return _stream(text, url.group(1).lower())
    path = Path(text)
    if not path.exists():
        if glob.has_magic(text):
            raise UserError(f"{path} is a pattern, and a run takes one video; give its own name.")
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"{path} does not exist.{suggest(path.name, siblings)}")
    open_regular(path).close()
    options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
    return VideoSource("file", f"file:{path}", str(path), options=options)


def is_video(text: str) -> bool:
    """Whether an input is a video, a stream or a camera: by its form alone, whether it is there or not."""
    if _CAMERA.fullmatch(text) or _DEVICE.fullmatch(text):
        return True
    if Path(text).is_dir():
        return False
    return _URL.match(text) is not None or Path(text).suffix.lower() in VIDEO_SUFFIXES


def _stream(text: str, scheme: str) -> VideoSource:
    if scheme not in SCHEMES:
        raise UserError(f"{shown(text)} is of a kind that is not read; streams are {', '.join(SCHEMES)}.")
    options = {"protocol_whitelist": _STREAM_PROTOCOLS, "format_whitelist": _STREAM_FORMATS}
    if scheme in {"rtsp", "rtsps"}:
        options["rtsp_transport"] = "tcp"  # over UDP a busy machine loses packets, which nobody could count
    return VideoSource("stream", text, shown(text), options=options)


def _camera(text: str, chosen: str | None) -> VideoSource:
    system = sys.platform
    if system not in _CAMERA_FORMATS:
        raise UserError(f"cameras are not read on {system}; give a stream.")
    address = text if chosen is None else _CAMERA_ADDRESSES[system].format(chosen)
    return VideoSource("camera", address, text, format=_CAMERA_FORMATS[system])


def shown(text: str) -> str:
    """An input without what may be secret in its address."""
    if not _URL.match(text):
        return text
    try:
        parts = urlsplit(text)
    except ValueError:  # such as a bracket that is not closed
        return f"{_URL.match(text)[0]}..."  # type: ignore[index]
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
