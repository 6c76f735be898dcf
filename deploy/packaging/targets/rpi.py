"""Raspberry Pi 4 and 5 with the 64-bit Raspberry Pi OS."""

from detheads.deploy.packaging.target import NATIVE, Target

TARGET = Target(
    name="rpi",
    machine="Raspberry Pi with the 64-bit Raspberry Pi OS",
    arches=("aarch64",),
    systems={"3.11": "Raspberry Pi OS Bookworm", "3.13": "Raspberry Pi OS Trixie"},
    extras=("cpu", "serve"),
    backend="cpu",
    glibc=(2, 36),  # Bookworm
    files=NATIVE,
    words={
        "VENV": "",
        "CAPTURE": "rpicam-vid -t 0 -n --codec mjpeg --width 1280 --height 720 --framerate 15 -o -",
        "CAMERA": "the Raspberry Pi camera",
    },
)
