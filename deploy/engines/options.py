"""How an engine is to be built, and what a library cannot do of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from detheads.deploy.engines.library import AHEAD_OF_TIME, Library
from detheads.foundation.errors import UserError

LARGEST_BATCH = 1024

REFUSED: Final[Mapping[str, str]] = {
    "version_compatible": "its engines run with the release that built them and no other; build anew after an upgrade",
    "hardware_compatible": "it compiles for listed GPUs: name them with --compute-capability",
    "timing_cache": "its timing cache does nothing and needs a GPU; leave it out",
}
"""What TensorRT-RTX has not, though its API has the names. Seen in 1.7: a version-compatible build fails for want of a
lean runtime, which no release brings (its documentation: engines are not compatible between releases); setting hardware
compatibility is logged as unsupported and ignored; timing cache operations are no-ops since 1.2."""

FLAGS: Final[Mapping[str, tuple[str, ...]]] = {
    "version_compatible": ("VERSION_COMPATIBLE",),
    # Weights that are put back are the same ones. REFIT alone may lose a bias in TensorRT 11.3, as its notes say.
    "strip_weights": ("STRIP_PLAN", "REFIT_IDENTICAL"),
    "refittable": ("REFIT",),
}
"""Builder flags of each option; an older library may lack one."""


@dataclass(frozen=True)
class BatchProfile:
    """Smallest, best and largest batch size an engine takes."""

    smallest: int = 1
    best: int = 4
    largest: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.best <= self.largest <= LARGEST_BATCH:
            raise UserError(
                f"the batch sizes {self} are not in rising order from 1 to {LARGEST_BATCH}; write them like 1:4:8."
            )

    def __str__(self) -> str:
        return f"{self.smallest}:{self.best}:{self.largest}"

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.smallest, self.best, self.largest

    @classmethod
    def parse(cls, text: str) -> "BatchProfile":
        """``"1:4:8"`` -> smallest 1, best 4, largest 8; a single number stands for all three.

        Raises:
            UserError: for any other text.
        """
        match = re.fullmatch(r"(\d{1,4})(?::(\d{1,4}):(\d{1,4}))?", text.strip())
        if match is None:
            raise UserError(f"--batch takes smallest:best:largest such as 1:4:8, not {text!r}.")
        first = int(match[1])
        return cls(first, int(match[2] or first), int(match[3] or first))


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is to be built.

    Attributes:
        capabilities: GPU architectures such as ``SM89``; Ampere and newer ones when None.
        workspace_gb: most GPU memory for intermediate results, in 10^9 bytes; the library's own limit when None.
        timing_cache: file with the timings of earlier builds, made where it is missing.
        version_compatible: later releases of the same major version run it, too.
        hardware_compatible: every GPU from Ampere on runs it, at some cost in speed.
        strip_weights: leave the weights out; the runtime takes them from the bundle's ONNX file.
        refittable: its weights can be replaced by others later.
        tf32: FP32 products may be computed in TF32, with 10 bits of mantissa; the library would do so by itself.
    """

    batch: BatchProfile = field(default_factory=BatchProfile)
    capabilities: tuple[str, ...] | None = None
    workspace_gb: float | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    strip_weights: bool = False
    refittable: bool = False
    tf32: bool = False

    @property
    def flags(self) -> list[str]:
        """Names of the builder flags."""
        return [name for option, names in FLAGS.items() if getattr(self, option) for name in names]

    def require_possible(self, library: Library) -> None:
        """Refuse what the library cannot do, before anything is built.

        Raises:
            UserError: naming the option, and what to do instead.
        """
        for option, why in REFUSED.items() if library.name == AHEAD_OF_TIME else ():
            if getattr(self, option):
                raise UserError(f"{library} takes no --{option.replace('_', '-')}: {why}.")
        flags = getattr(library.module, "BuilderFlag", None)
        missing = [name for name in self.flags if not hasattr(flags, name)]
        if self.hardware_compatible and not hasattr(
            getattr(library.module, "HardwareCompatibilityLevel", None), "AMPERE_PLUS"
        ):
            missing.append("AMPERE_PLUS")
        if missing:
            raise UserError(f"{library} has no {', '.join(missing)}; upgrade it or leave the option out.")
        unknown = [name for name in self.capabilities or () if name not in library.capabilities]
        if unknown:
            offered = ", ".join(library.capabilities) or "only the GPU of this machine, without --compute-capability"
            raise UserError(f"{library} cannot compile for {', '.join(unknown)}; it offers {offered}.")
