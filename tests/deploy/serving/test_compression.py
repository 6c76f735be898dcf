"""Compressed bodies: as HTTP's own tools write and read them, and no more memory than allowed."""

import gzip
import tracemalloc
import zlib

import pytest

from detheads.deploy.serving.protocols.compression import compress, decompress
from detheads.deploy.serving.refusals import Refused

BODY = bytes(range(256)) * 40
WRITERS = {"gzip": gzip.compress, "deflate": zlib.compress}
READERS = {"gzip": gzip.decompress, "deflate": zlib.decompress}


@pytest.mark.parametrize("coding", WRITERS)
def test_a_body_of_the_largest_size_is_read_and_one_byte_more_is_not(coding: str) -> None:
    assert decompress(WRITERS[coding](BODY), coding, len(BODY)) == BODY
    with pytest.raises(Refused, match="more than 10,239 bytes"):
        decompress(WRITERS[coding](BODY), coding, len(BODY) - 1)


def test_a_bomb_takes_no_more_memory_than_its_limit() -> None:
    bomb = gzip.compress(bytes(100_000_000))
    tracemalloc.start()
    with pytest.raises(Refused, match="more than 1,000,000 bytes"):
        decompress(bomb, "gzip", 1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize("coding", WRITERS)
def test_damaged_cut_and_continued_bodies_are_refused(coding: str) -> None:
    whole = WRITERS[coding](BODY)
    for broken, sentence in (
        (b"\xff" + whole, f"is not {coding}"),
        (whole[:-5], "cut off"),
        (whole + b"more", "4 bytes"),
    ):
        with pytest.raises(Refused, match=sentence):
            decompress(broken, coding, 10**6)


def test_other_codings_are_named() -> None:
    assert decompress(BODY, None, 10**6) == decompress(BODY, "identity", 10**6) == BODY
    with pytest.raises(Refused, match="gzip or deflate, not 'br'"):
        decompress(BODY, "br", 10**6)


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("br;q=1.0, deflate;q=0.5, gzip", "deflate"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip;q=0.0", None),
        ("br", None),
        (None, None),
    ],
)
def test_an_answer_is_compressed_as_its_client_accepts(accepted: str | None, coding: str | None) -> None:
    content, used = compress(BODY, accepted)
    assert used == coding
    assert READERS.get(coding or "", bytes)(content) == BODY
