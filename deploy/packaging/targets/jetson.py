"""NVIDIA Jetson with JetPack 6 or 7: the system's TensorRT, whose engine is built when the service first starts.

TensorRT's Python module belongs to the system's Python and comes with JetPack (10.x with JetPack 6; JetPack 7 needs
11.4.1 or later), so the environment sees the system's packages, and no build of ONNX Runtime is packed: none that an
index has runs on a Jetson's GPU. ``cuda-python`` follows the CUDA of each JetPack, 12.6 and 13.
"""

from detheads.deploy.packaging.target import NATIVE, Target

TARGET = Target(
    name="jetson",
    machine="NVIDIA Jetson",
    arches=("aarch64",),
    systems={"3.10": "JetPack 6", "3.12": "JetPack 7"},
    extras=("serve",),
    backend="tensorrt",
    glibc=(2, 35),  # Ubuntu 22.04
    files={**NATIVE, "engine.sh": "engine.sh", "prove.sh": "prove_engine.sh", "service.in": "engine_service.in"},
    words={
        "VENV": "--system-site-packages",
        "CAPTURE": (
            "gst-launch-1.0 -q nvarguscamerasrc ! 'video/x-raw(memory:NVMM),width=1280,height=720,framerate=15/1' ! "
            "nvjpegenc ! fdsink"
        ),
        "CAMERA": "the CSI camera",
    },
    requirements={"3.10": ("cuda-python>=12.6.1,<13",), "3.12": ("cuda-python>=13,<14",)},
)
