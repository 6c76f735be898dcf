"""A detector for Frigate on another machine: its ``zmq`` detector asks, a bundle answers.

The protocol, as Frigate's detector plugin ``zmq_ipc`` speaks it over REQ/REP:

- ``[{"shape", "dtype", "model_type"}, pixels]`` -> 480 bytes, float32 ``[20, 6]``: class, score, y1, x1, y2, x2 as
  shares of the frame, best first, unused rows 0.
- ``[{"model_request": true, "model_name"}]`` -> ``{"model_available": true, "model_loaded": true}``.
- ``[{"model_data": true, "model_name"}, file]``, which it sends to a worker without a model: declined, for the bundle
  is the model.

Frigate waits 200 ms, then gives the frame up. Whoever can reach the address may ask: the protocol knows no password.
"""

import json
import os
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detheads.deploy.detector import Detections, Detector
from detheads.deploy.hosts.frigate import require_endpoint
from detheads.foundation.errors import UserError
from detheads.foundation.reading import parse_json

ROWS: Final = 20
"""Detections of a reply; fixed by the protocol."""
PATIENCE: Final = 0.2
"""Seconds that Frigate waits for a reply unless its ``request_timeout_ms`` says otherwise."""
LONGEST_HEADER: Final = 4096
"""Bytes; Frigate's has about 70."""
LONGEST_SIDE: Final = 2048
"""Pixels; Frigate's frames are as large as its ``model.width``, mostly 320 or 640."""
LARGEST_FRAME: Final = LONGEST_SIDE * LONGEST_SIDE * 3
"""Bytes; ZeroMQ closes the connection of a peer that sends more."""
LOOK: Final = 250
"""Milliseconds between looks at whether to stop."""
TIMED: Final = 1000
"""Latest replies whose median is told."""
WARM_UP: Final = 3
NOTHING: Final = bytes(ROWS * 6 * 4)
"""The reply without detections."""


class MalformedError(Exception):
    """A request that is none of the protocol's; the message says why."""


@dataclass(frozen=True)
class Tally:
    """What a worker did.

    Attributes:
        frames: answered with what was found in them.
        refused: requests that were malformed, or whose frame could not be run; answered with no detections.
        late: replies that took longer than Frigate waits.
        median_ms: of the latest replies; None where there were none.
    """

    frames: int
    refused: int
    late: int
    median_ms: float | None

    def to_dict(self) -> dict[str, Any]:
        return {"frames": self.frames, "refused": self.refused, "late": self.late, "median_ms": self.median_ms}


class Worker:
    """Answers requests one after the other.

    Args:
        on_remark: told what is wrong with requests, and late replies: the 1st, 10th, 100th and so on of a kind, so that
            a stream of them does not fill a disk.
    """

    def __init__(self, detector: Detector, on_remark: Callable[[str], None]) -> None:
        self.detector, self._on_remark = detector, on_remark
        self._counts = Counter[str]()
        self._seconds: deque[float] = deque(maxlen=TIMED)

    @property
    def tally(self) -> Tally:
        median = round(1000 * statistics.median(self._seconds), 1) if self._seconds else None
        return Tally(self._counts["frames"], self._counts["refused"], self._counts["late"], median)

    def warm_up(self) -> float:
        """Run empty pictures; returns the median of their seconds, and remarks on it where Frigate would not wait."""
        manifest = self.detector.manifest
        empty = Image.new("RGB", (manifest.input.width, manifest.input.height))
        taken = []
        for _ in range(WARM_UP):
            began = time.perf_counter()
            self.detector.run([self.detector.prepare(empty)])
            taken.append(time.perf_counter() - began)
        seconds = statistics.median(taken)
        if seconds > PATIENCE:
            self._on_remark(
                f"a frame takes {1000 * seconds:.0f} ms here, and Frigate waits {1000 * PATIENCE:.0f} ms: raise the "
                "detector's request_timeout_ms there, or run a smaller model or a faster --backend here"
            )
        return seconds

    def answer(self, frames: Sequence[bytes]) -> bytes:
        """The reply to the parts of a message; to what is no request of the protocol one without detections."""
        began = time.perf_counter()
        try:
            header = _header_of(frames)
            if header.get("model_request"):
                return _json(model_available=True, model_loaded=True)
            if header.get("model_data"):
                self._remark("refused", "a model was sent and declined: this worker runs its bundle and nothing else")
                return _json(model_saved=False, model_loaded=False)
            reply = self._detect(_picture_of(header, frames))
        except MalformedError as error:
            self._remark("refused", f"a request was answered without detections: {error}")
            return NOTHING
        except Exception as error:  # a backend's own failure: the next frame may be a good one, so the worker stays
            self._remark("refused", f"a frame could not be run ({type(error).__name__}: {error})")
            return NOTHING
        self._counts["frames"] += 1
        seconds = time.perf_counter() - began
        self._seconds.append(seconds)
        if seconds > PATIENCE:
            self._remark("late", f"a reply took {1000 * seconds:.0f} ms; Frigate waits {1000 * PATIENCE:.0f} ms")
        return reply

    def _detect(self, picture: Image.Image) -> bytes:
        found = self.detector.run([self.detector.prepare(picture)])[0]
        return reply_of(found, picture.width, picture.height)

    def _remark(self, kind: str, sentence: str) -> None:
        self._counts[kind] += 1
        count = self._counts[kind]
        if str(count).rstrip("0") == "1":  # 1, 10, 100 and so on
            self._on_remark(sentence if count == 1 else f"{sentence} (the {count:,}th)")


def serve(worker: Worker, endpoint: str, stop: threading.Event, on_ready: Callable[[], None]) -> Tally:
    """Answer what comes to ``endpoint`` until ``stop`` is set; the request in hand is answered first.

    Raises:
        UserError: when the address cannot be bound.
    """
    import zmq

    require_endpoint(endpoint)
    with zmq.Context() as context, context.socket(zmq.REP) as socket:
        socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_FRAME)
        socket.setsockopt(zmq.LINGER, LOOK)
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise UserError(
                f"{endpoint} cannot be bound ({os.strerror(error.errno or 0)}); choose another address."
            ) from None
        on_ready()
        while not stop.is_set():
            if socket.poll(LOOK):
                socket.send(worker.answer(socket.recv_multipart()))
    return worker.tally


def reply_of(found: Detections, width: int, height: int) -> bytes:
    """The best detections of a frame of that size as the protocol has them."""
    count = min(ROWS, len(found))
    table = np.zeros((ROWS, 6), "<f4")
    table[:count, 0] = found.labels[:count]
    table[:count, 1] = found.scores[:count]
    table[:count, 2:] = found.boxes[:count][:, [1, 0, 3, 2]] / (height, width, height, width)
    return table.tobytes()


def _header_of(frames: Sequence[bytes]) -> dict[str, Any]:
    if len(frames) not in {1, 2} or len(frames[0]) > LONGEST_HEADER:
        raise MalformedError("it is not a JSON header of at most 4 KiB and the pixels")
    try:
        header = parse_json(frames[0], "its header")
    except UserError as error:
        raise MalformedError(str(error)) from None
    if not isinstance(header, dict):
        raise MalformedError("its header is no JSON object")
    return header


def _picture_of(header: dict[str, Any], frames: Sequence[bytes]) -> Image.Image:
    """The frame, uint8 RGB ``[1, 3, H, W]`` or ``[1, H, W, 3]``."""
    shape, dtype = header.get("shape"), header.get("dtype")
    if dtype != "uint8":
        raise MalformedError(f"its pixels are {dtype!r}; set input_dtype: int in Frigate's model section")
    if not isinstance(shape, list) or len(shape) != 4 or any(type(side) is not int for side in shape):
        raise MalformedError("its shape is not that of one image")
    planes = shape[1] == 3
    height, width = shape[2:] if planes else shape[1:3]
    if shape[0] != 1 or not (planes or shape[3] == 3) or not (0 < height <= LONGEST_SIDE and 0 < width <= LONGEST_SIDE):
        raise MalformedError(f"its shape is {shape}, not [1, 3, height, width] of up to {LONGEST_SIDE} pixels")
    if len(frames) != 2 or len(frames[1]) != 3 * height * width:
        raise MalformedError(f"it has not the {3 * height * width:,} bytes of {width}x{height} pixels")
    pixels: NDArray[np.uint8] = np.frombuffer(frames[1], np.uint8).reshape(shape[1:])
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0) if planes else pixels))


def _json(**values: bool) -> bytes:
    return json.dumps(values).encode()
