"""Arrays of others: the same that were written, or one sentence before memory is spent."""

import io
import resource
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detheads.foundation.arrays import read_arrays
from detheads.foundation.errors import UserError

ARRAYS = [
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.asfortranarray(np.eye(3)[:, :2]),
    np.array(["a", "größe"]),
    np.zeros((0, 4)),
    np.array(7),
]


@pytest.mark.parametrize("array", ARRAYS)
def test_arrays_are_those_that_were_written(tmp_path: Path, array: Any) -> None:
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", one=array, two=array)
    single, many = read_arrays(tmp_path / "a.npy"), read_arrays(str(tmp_path / "a.npz"))
    assert isinstance(many, dict)
    assert list(many) == ["one", "two"]
    for read in (single, many["one"]):
        np.testing.assert_array_equal(read, array, strict=True)


def _file(header: str, data: bytes = b"", version: int = 1) -> bytes:
    text = header.encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + data


def _zip(member: bytes, **options: Any) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **options) as archive:
        archive.writestr("a.npy", member)
    return stream.getvalue()


HUGE = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
BAD = {
    "empty": b"",
    "text": b"a,b\n1,2\n",
    "huge": _file(HUGE),
    "huge in a zip": _zip(_file(HUGE)),
    "negative": _file(HUGE.replace("1000000000000", "-1")),
    "of 400 digits": _file(HUGE.replace("1000000000000", "9" * 400)),
    "long header": _file("{" + " " * 100_000, version=2),
    "deep header": _file("(" * 5000 + ")" * 5000),
    "code": _file("__import__('os').system('touch payload')"),
    "cut": _file(HUGE.replace("1000000000000", "2"), b"12345678"),
    "objects": _file(HUGE.replace("<f8", "|O").replace("1000000000000", "1"), b"12345678"),
    "another version": _file(HUGE, version=9),
    "cut zip": _zip(_file(HUGE))[:40],
    "bomb": _zip(bytes(1 << 20) * 40, compression=zipfile.ZIP_DEFLATED),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_array_is_one_sentence_and_costs_no_memory(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.npz"
    path.write_bytes(BAD[kind])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"a\.npz is not a file of arrays \(.*\); give \.npy or \.npz\."):
        read_arrays(path, 1 << 25)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npz"]
