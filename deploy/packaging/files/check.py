"""Compares every file of this package with manifest.json, and this machine with the one that it was made for.

Needs nothing but Python. Exits 1 with a sentence where something differs.
"""

import hashlib
import json
import platform
import sys
from pathlib import Path


def main(folder: Path) -> int:
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    python, arch = ".".join(platform.python_version_tuple()[:2]), platform.machine()
    if "--files" not in sys.argv:
        if python != manifest["python"]:
            return fail(f"this is Python {python}, and the package is for {manifest['python']}; set PYTHON to that one")
        if arch != manifest["arch"]:
            return fail(f"this machine is {arch}, and the package is for {manifest['arch']}; pack it for this target")
        library, version = platform.libc_ver()
        if library != "glibc" or tuple(map(int, version.split(".")[:2])) < tuple(manifest["glibc"]):
            needed = ".".join(map(str, manifest["glibc"]))
            return fail(f"the wheels need glibc {needed} or newer, and this system has {library} {version}")
    for name, sha256 in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return fail(f"{path} is missing; unpack the archive again")
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            return fail(f"{path} is not the file that was packed (SHA-256 differs); unpack the archive again")
    print(f"{len(manifest['files'])} files are as they were packed")
    return 0


def fail(sentence: str) -> int:
    print(f"error: {sentence}.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent))
