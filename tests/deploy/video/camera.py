"""Network cameras on this machine: real servers that send as fast as they are told, die, and return."""

import threading
import time
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import av
from PIL import Image

from tests.deploy.video.squares import moving, picture


class Camera:
    """Sends frames by HTTP to whoever asks, as an IP camera does: MPEG-TS, or JPEG after JPEG.

    Args:
        rate: frames a second.
        pictures: sends these JPEG files in turn instead of MPEG-TS.
    """

    def __init__(self, rate: float = 100, pictures: list[bytes] | None = None) -> None:
        self.rate, self.pictures = rate, pictures
        self.sent = 0
        self.asked: list[str] = []
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self._alive = threading.Event()

    def __enter__(self) -> "Camera":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/live"

    def start(self) -> None:
        """Listen, on the same port as before."""
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.asked.append(self.path)
                self.send_response(200)
                kind = "video/mp2t" if camera.pictures is None else "multipart/x-mixed-replace; boundary=frame"
                self.send_header("Content-Type", kind)
                self.end_headers()
                try:
                    camera._send(self.wfile.write)
                except OSError:  # the other side has hung up
                    return

            def log_message(self, *_: Any) -> None:
                pass

        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_port
        self._alive.set()
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def die(self) -> None:
        """Hang up on everybody, and listen no more."""
        self._alive.clear()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _send(self, write: Callable[[bytes], Any]) -> None:
        begin, number = time.monotonic(), 0
        frames = _transport_stream() if self.pictures is None else [_part(jpeg) for jpeg in self.pictures]
        while self._alive.is_set():
            write(frames[number % len(frames)])
            number += 1
            self.sent += 1
            time.sleep(max(0.0, begin + number / self.rate - time.monotonic()))


def _part(jpeg: bytes) -> bytes:
    """A picture in a reply of many parts."""
    return f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode() + jpeg + b"\r\n"


@cache
def _transport_stream() -> list[bytes]:
    """20 seconds of moving squares in MPEG-TS, the bytes of each frame."""
    sink, parts = BytesIO(), []
    with av.open(sink, "w", format="mpegts", container_options={"flush_packets": "1"}) as file:
        stream = file.add_stream("mpeg2video", rate=30, options={"g": "6", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 192, 144, "yuv420p"
        for number in range(600):
            frame = av.VideoFrame.from_ndarray(picture(moving(number % 30), (192, 144), 24), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            before = sink.tell()
            file.mux(stream.encode(frame))
            parts.append(bytes(sink.getbuffer()[before:]))
    return parts


def jpeg(width: int, height: int, frame: int = 0) -> bytes:
    """A JPEG file of moving squares."""
    file = BytesIO()
    Image.fromarray(picture(moving(frame), (width, height), 24)).save(file, "JPEG", quality=90)
    return file.getvalue()
