"""NVIDIA GPUs by compute capability: which ones an engine serves, and which people ask about in vain."""

from collections.abc import Sequence
from typing import Final

NAMES: Final = {
    "SM75": "RTX 20 series, T4",
    "SM80": "A100, A30",
    "SM86": "RTX 30 series, A10, A40",
    "SM87": "Jetson Orin",
    "SM89": "RTX 40 series, L4, L40",
    "SM90": "H100, H200",
    "SM100": "B200, GB200",
    "SM103": "B300, GB300",
    "SM110": "Jetson Thor",
    "SM120": "RTX 50 series",
    "SM121": "DGX Spark",
}
"""Of the GPUs that bundles are asked to run on. Source: NVIDIA's table of CUDA GPU compute capability."""

ASKED_FOR: Final = ("SM87", "SM90")
"""Named also where an engine does not serve them."""


def named(capability: str) -> str:
    """``"SM87"`` -> ``"Jetson Orin (SM87)"``; an unknown one stays as it is."""
    return f"{NAMES[capability]} ({capability})" if capability in NAMES else capability


def served(capabilities: Sequence[str]) -> str:
    """Which GPUs an engine for these serves, and which well-known ones it does not."""
    if not all(capability.startswith("SM") for capability in capabilities):
        return ", ".join(capabilities)
    missing = [named(capability) for capability in ASKED_FOR if capability not in capabilities]
    return "; ".join(map(named, capabilities)) + (f"; not {', '.join(missing)}" if missing else "")


def build_command(onnx: str, height: int, width: int, batch: tuple[int, int, int]) -> str:
    """The command that builds an engine of an ONNX file on the machine that is to run it, such as a Jetson."""
    shapes = " ".join(
        f"--{name}Shapes=images:{count}x3x{height}x{width}"
        for name, count in zip(("min", "opt", "max"), batch, strict=True)
    )
    return f"trtexec --onnx={onnx} {shapes} --saveEngine=model.engine"
