"""gzip and deflate of request and response bodies, bounded."""

import gzip
import zlib
from typing import Final

from detheads.deploy.serving.refusals import Refused

_WINDOW: Final = {"gzip": 31, "deflate": zlib.MAX_WBITS}
"""What zlib takes for each of HTTP's codings (RFC 9110, 8.4.1: "deflate" is the zlib format)."""


def decompress(body: bytes, coding: str | None, limit: int) -> bytes:
    """The content of a body.

    Args:
        coding: the header ``Content-Encoding``.
        limit: bytes that the content has at most; no more are decompressed.

    Raises:
        Refused: 415 when the coding is neither gzip nor deflate, 413 when the content is longer than ``limit``, and 400
            when the body is damaged, cut off, or followed by something else.
    """
    name = (coding or "identity").strip().lower()
    if name == "identity":
        return body
    if name not in _WINDOW:
        raise Refused(415, f"Content-Encoding is gzip or deflate, not {name[:40]!r}.")
    stream = zlib.decompressobj(_WINDOW[name])
    try:
        content = stream.decompress(body, limit + 1)  # a limit of 0 would be none
    except zlib.error as error:
        raise Refused(400, f"the body is not {name}: {error}.") from None
    if len(content) > limit:
        raise Refused(413, f"the body has more than {limit:,} bytes once decompressed.")
    if not stream.eof:
        raise Refused(400, f"the body is cut off: its {name} stream does not end.")
    if stream.unused_data:
        raise Refused(400, f"{len(stream.unused_data):,} bytes follow the {name} stream of the body.")
    return content


def compress(body: bytes, accepted: str | None) -> tuple[bytes, str | None]:
    """The body in the first coding of ``Accept-Encoding`` that is known here, and that coding's name; else as it is."""
    for part in (accepted or "").lower().split(","):
        name, _, weight = part.partition(";")
        refused = weight.strip().removeprefix("q=").strip("0.") == "" and "q=" in weight
        if refused:
            continue
        if name.strip() == "gzip":
            return gzip.compress(body, compresslevel=1, mtime=0), "gzip"
        if name.strip() == "deflate":
            return zlib.compress(body, level=1), "deflate"
    return body, None
