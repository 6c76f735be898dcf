"""Linux on an x86-64 processor, such as an industrial PC."""

import sys

from detheads.deploy.packaging.target import NATIVE, Target

RUNNING = f"{sys.version_info[0]}.{sys.version_info[1]}"
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")

TARGET = Target(
    name="x86",
    machine="Linux on x86-64",
    arches=("x86_64",),
    systems=dict.fromkeys(sorted(VERSIONS, key=lambda version: version != RUNNING), "any Linux"),
    extras=("cpu", "serve"),
    backend="cpu",
    glibc=(2, 28),  # Debian 11 and Ubuntu 20.04 have a newer one; ONNX Runtime and PyAV need this one
    files=NATIVE,
    words={
        "VENV": "",
        "CAPTURE": "ffmpeg -loglevel error -f v4l2 -i /dev/video0 -f mjpeg -q:v 3 -",
        "CAMERA": "/dev/video0",
    },
)
