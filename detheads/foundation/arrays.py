"""NumPy files read with bounds: what a header says is compared with the file before memory is spent on it."""

import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from detheads.foundation.errors import UserError
from detheads.foundation.reading import open_regular

LARGEST_ARRAYS = 1 << 30
"""Bytes of all arrays of a file, unpacked."""


def read_arrays(path: str | Path, limit: int = LARGEST_ARRAYS) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """The array of an ``.npy`` file, or those of an ``.npz`` file by name, whatever the file is called.

    Raises:
        UserError: when it is neither, holds Python objects (which would be executed), or has more than ``limit`` bytes.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            if file.read(2) != b"PK":
                file.seek(0)
                return _array(file, size, limit)
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                if sum(member.file_size for member in members) > limit:
                    raise ValueError(f"it has more than {limit >> 20} MiB")
                arrays = {}
                for member in members:
                    with archive.open(member) as stream:
                        arrays[member.filename.removesuffix(".npy")] = _array(stream, member.file_size, limit)
                return arrays
        except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{path} is not a file of arrays ({reason}); give .npy or .npz.") from None


def _array(stream: IO[bytes], size: int, limit: int) -> NDArray[Any]:
    """One array in NumPy's format, of ``size`` bytes with its header."""
    if size > limit:
        raise ValueError(f"it has more than {limit >> 20} MiB")
    version = npy.read_magic(stream)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read_header(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != size - stream.tell():
        raise ValueError(f"its header says {wanted} bytes, and {size - stream.tell()} follow")
    values = np.frombuffer(bytearray(stream.read(wanted)), dtype)
    return values.reshape(shape, order="F" if fortran else "C")
