"""How a bundle's graph is run on a CPU for its proof: as it is, rounded as its types say, or both.

A graph with FP16 runs on ONNX Runtime's CPU provider, in FP32 arithmetic: that is what its users on a CPU get, and says
nothing of a GPU. So it is run a second time, rounded (:mod:`detheads.export.precision.rounding`). A graph with BF16
does not run there at all (1.32 has no kernel of any product or convolution), and is run rounded only.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto

from detheads.deploy import Detector
from detheads.export.precision.rounding import low_types, rounded
from detheads.export.precision.view import FLOATS
from detheads.foundation import atomic
from detheads.foundation.bundle import onnx_file, read_manifest, write_manifest
from detheads.foundation.manifest import OnnxEntry


@dataclass(frozen=True)
class Execution:
    """One way in which a bundle's graph is run.

    Attributes:
        graph: what is run: the bundle's file, or a graph in memory.
        emulated: what stands in for arithmetic that this machine has not; empty for the file as it is.
    """

    detector: Detector
    graph: Path | ModelProto
    emulated: str = ""

    @property
    def runtime(self) -> str:
        """What ran it, for a reader."""
        return self.detector.session.runtime + (f", {self.emulated}" if self.emulated else "")

    @property
    def model(self) -> ModelProto:
        """The graph in memory."""
        return onnx.load_model(str(self.graph)) if isinstance(self.graph, Path) else self.graph

    @property
    def remark(self) -> str:
        """What a reader of the proof should know of an emulation."""
        return (
            f"this machine did not compute in the graph's own types; they were {self.emulated}. On the device, "
            "'detheads bundle prove' runs the graph itself"
        )


def executions(bundle: Path, threads: int | None = None, head: str | None = None) -> list[Execution]:
    """The ways in which a bundle's graph is run on the CPU, at least one; the last is nearest to what its types say.

    Args:
        head: whose detections are looked at, in a bundle of several heads.

    Raises:
        UserError: when the bundle cannot be used.
    """
    manifest = read_manifest(bundle)
    path = onnx_file(bundle, manifest)
    if manifest.precision == "fp32":
        return [Execution(Detector(bundle, threads=threads, head=head), path)]
    model = onnx.load_model(str(path))
    low = low_types(model)
    found = []
    if TensorProto.BFLOAT16 not in low:
        found.append(Execution(Detector(bundle, threads=threads, head=head), path))
    if low:
        names = " and ".join(sorted(FLOATS[kind] for kind in low))
        exact = rounded(model)
        with tempfile.TemporaryDirectory(prefix="detheads-") as place:
            folder = Path(place)
            onnx.save_model(exact, str(folder / "model.onnx"))
            size, digest = (folder / "model.onnx").stat().st_size, atomic.sha256_of(folder / "model.onnx")
            entry = OnnxEntry(file="model.onnx", sha256=digest, opset=manifest.onnx.opset, bytes=size)
            alone = {"onnx": entry, "engines": [], "profiles": [], "files": {}}
            write_manifest(folder, manifest.model_copy(update=alone))
            detector = Detector(folder, threads=threads, head=head)
        found.append(Execution(detector, exact, f"emulated: FP32 arithmetic, each result rounded to {names}"))
    return found


def planned(ways: Sequence[Execution], batch_sizes: Sequence[int]) -> Iterator[tuple[Execution, int]]:
    """What a proof runs: the first way at every batch size, 1 among them, any further one at 1, each way's 1 first."""
    for place, way in enumerate(ways):
        for size in (1,) if place else sorted({1, *batch_sizes}):
            yield way, size
