"""A container image, built where there is Docker and no network for Python packages."""

from detheads.deploy.packaging.target import COMMON, Target

TARGET = Target(
    name="docker",
    machine="Docker",
    arches=("x86_64", "aarch64"),
    systems={version: f"image python:{version}-slim" for version in ("3.12", "3.10", "3.11", "3.13")},
    extras=("cpu", "serve"),
    backend="cpu",
    glibc=(2, 36),  # Debian 12
    files={
        **COMMON,
        "README.md": "docker_README.md",
        "Dockerfile": "Dockerfile",
        "compose.yaml": "compose.yaml",
        ".dockerignore": "dockerignore",
        "camera.sh": "docker_camera.sh",
        "doctor.sh": "docker_doctor.sh",
        "prove.sh": "docker_prove.sh",
    },
    words={
        "CAPTURE": "ffmpeg -loglevel error -f v4l2 -i /dev/video0 -f mjpeg -q:v 3 -",
        "CAMERA": "/dev/video0",
    },
)
