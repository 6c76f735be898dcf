"""Detections in a stream of JPEG pictures on standard input, as every camera program can write one (MJPEG).

    rpicam-vid -t 0 --codec mjpeg -o - | venv/bin/python camera.py NAME.detheads cpu

Prints a JSON line for each picture that was looked at. A model slower than the camera looks at the newest picture;
those that it passed over are counted, and told at the end.
"""

import json
import sys
import threading
from collections.abc import Iterator
from io import BufferedReader

from detheads.deploy.detector import Detector
from detheads.foundation.errors import UserError

LARGEST = 32 << 20
"""Bytes of a picture; a stream without an end of picture for so long is none."""
FIRST, LAST = b"\xff\xd8", b"\xff\xd9"
"""What a JPEG begins and ends with."""


def pictures(stream: BufferedReader) -> Iterator[bytes]:
    """Each whole JPEG of a stream."""
    pending = b""
    while block := stream.read1(1 << 20):
        pending += block
        while (end := pending.find(LAST)) >= 0:
            yield pending[max(0, pending.find(FIRST)) : end + 2]
            pending = pending[end + 2 :]
        if len(pending) > LARGEST:
            raise UserError(f"{LARGEST >> 20} MiB came without an end of a picture; is it a stream of JPEGs?")


class Newest:
    """The picture that came last, for one who is slower than the camera."""

    def __init__(self, stream: BufferedReader) -> None:
        self.seen = 0
        self._picture: bytes | None = None
        self._ended: str | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: BufferedReader) -> None:
        reason = ""
        try:
            for picture in pictures(stream):
                with self._changed:
                    self._picture, self.seen = picture, self.seen + 1
                    self._changed.notify()
        except UserError as error:
            reason = str(error)
        with self._changed:
            self._ended = reason
            self._changed.notify()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Number (from 1) and bytes of each picture that is taken."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._picture is not None or self._ended is not None)
                picture, number, self._picture = self._picture, self.seen, None
            if picture is not None:
                yield number, picture
            elif self._ended:
                raise UserError(self._ended)
            else:
                return


def main() -> int:
    bundle, backend = sys.argv[1:3]
    try:
        detector = Detector(bundle, backend=backend)
        newest, looked_at, broken = Newest(sys.stdin.buffer), 0, 0  # type: ignore[arg-type]
        for number, picture in newest:
            try:
                found = detector(picture)
            except UserError as error:
                broken += 1
                print(f"picture {number}: {error}", file=sys.stderr)
                continue
            looked_at += 1
            print(json.dumps({"picture": number, **found.to_dict()}), flush=True)
        passed = newest.seen - looked_at - broken
        print(f"{looked_at} pictures looked at, {passed} passed over, {broken} unreadable", file=sys.stderr)
        return 0 if looked_at else 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
