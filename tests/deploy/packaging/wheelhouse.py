"""Tiny wheels in the place of real ones, so that the real pip has something to choose from in a second."""

import base64
import hashlib
import zipfile
from pathlib import Path

OWN = "detheads-9.9.9-py3-none-any.whl"


def write_wheel(folder: Path, name: str, tag: str = "py3-none-any", requires: tuple[str, ...] = ()) -> Path:
    """A wheel ``name-version`` with one module, and these requirements."""
    distribution, version = name.split("-")
    place = f"{distribution}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {line}\n" for line in requires)
    files = {
        f"{distribution}/__init__.py": f"version = {version!r}\n",
        f"{place}/METADATA": metadata,
        f"{place}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    path = folder / f"{distribution}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        rows = []
        for file, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{file},sha256={digest},{len(text)}\n")
            archive.writestr(zipfile.ZipInfo(file), text)
        archive.writestr(zipfile.ZipInfo(f"{place}/RECORD"), "".join([*rows, f"{place}/RECORD,,\n"]))
    return path


def write_wheelhouse(folder: Path) -> Path:
    """What stands for the package index; returns the wheel of detheads."""
    for arch in ("x86_64", "aarch64"):
        for python in ("310", "312"):
            write_wheel(folder, "numpy-2.1", f"cp{python}-cp{python}-manylinux_2_28_{arch}")
        write_wheel(folder, "pynew-1.0", f"cp310-cp310-manylinux_2_39_{arch}")  # for a newer system than any target
    write_wheel(folder, "anyio-4.0", requires=("exceptiongroup>=1; python_version < '3.11'",))
    write_wheel(folder, "exceptiongroup-1.2")
    write_wheel(folder, "onnxruntime-1.30", requires=("numpy>=2",))
    write_wheel(folder, "onlyhere-1.0")
    write_wheel(folder, "cuda_python-12.9")
    extras = ("anyio>=4; extra == 'serve'", "onnxruntime>=1.19; extra == 'cpu'", "pynew; extra == 'video'")
    here = "onlyhere; python_version >= '3.11'"
    return write_wheel(folder, "detheads-9.9.9", requires=("numpy>=1.26", here, *extras))
