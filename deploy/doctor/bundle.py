"""Whether and how a bundle runs on this machine: by opening and running it here."""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from detheads.deploy.auto import try_all
from detheads.deploy.detector import Detector
from detheads.deploy.device import describe
from detheads.deploy.engines.library import load_library
from detheads.deploy.engines.machine import gpu_here
from detheads.deploy.engines.recognition import misfit, stale
from detheads.deploy.prove import read_verdicts
from detheads.foundation.atomic import sized
from detheads.foundation.bundle import engine_file, onnx_file, read_manifest
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import BundleManifest, EngineEntry
from detheads.foundation.memory import available_memory

RUNTIME: Final = 100 * 10**6
TIMES_GRAPH: Final = 4
"""Memory that a bundle takes, in bytes: so much for the runtime and so often its graph. Measured with ONNX Runtime 1.32
on a CPU: graphs of 1.6, 3.8, 13.7 and 49 MB took 84, 112, 160 and 262 MB; this gives 106, 115, 155 and 298."""
SECONDS: Final = 120
"""That a first detection may take."""
COLD: Final = """
import json, sys, time
from pathlib import Path
from PIL import Image
from detheads import Detector
detector = Detector(sys.argv[1], backend=sys.argv[2])
size = detector.manifest.input
detector(Image.new("RGB", (size.width, size.height)))
ended = time.monotonic()
status = Path("/proc/self/status").read_text() if sys.platform == "linux" else "VmHWM: 0"
print(json.dumps([ended, int(status.partition("VmHWM:")[2].split()[0])]))
"""
"""A process that detects once, as a program of the user's would. The system's monotonic clock is that of all processes.
``ru_maxrss`` would be no less than what the process that starts it holds."""


@dataclass(frozen=True)
class Fit:
    """An engine of the bundle.

    Attributes:
        reason: why it does not run here; empty where nothing speaks against it.
    """

    file: str
    builder: str
    reason: str


@dataclass(frozen=True)
class Fitness:
    """What is known of a bundle on this machine.

    Attributes:
        runs: some backend runs it.
        backends: milliseconds of one image through the model, by backend, the fastest first.
        refused: why other backends do not run it.
        judged: by what it is known that they find the same.
        memory_estimate: bytes that it takes, from the size of its graph.
        memory_free: bytes that there are.
        peak_memory, first_detection_seconds: of a process that detects once with the fastest backend, measured; None
            where it was not run.
        engines: whether each fits here.
        proof: ``verified`` and its like.
        proven_here: when and how this machine proved it; empty where it never did.
    """

    name: str
    runs: bool
    backends: dict[str, float]
    refused: dict[str, str]
    judged: str
    memory_estimate: int
    memory_free: int | None
    peak_memory: int | None
    first_detection_seconds: float | None
    engines: list[Fit]
    proof: str
    proven_here: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(bundle: Path) -> Fitness:
    """Open a bundle in every backend here, run its probes, and time it.

    Raises:
        UserError: when the folder is no bundle, or a file is not the one that its manifest describes.
    """
    manifest = read_manifest(bundle)
    graph = onnx_file(bundle, manifest)
    estimate = RUNTIME + TIMES_GRAPH * graph.stat().st_size
    free = available_memory().free
    backends: dict[str, float] = {}
    peak = seconds = None
    judged = ""
    if free is not None and free < estimate:
        refused = {"every backend": f"about {sized(estimate)} memory are needed, and {sized(free)} are free"}
    else:
        trials = try_all(Detector, bundle)
        backends = {name: trials.milliseconds[name] for name in trials.by_speed}
        refused, judged = dict(trials.refused), trials.judged
        if backends:
            del trials  # and with it every open session
            peak, seconds = _cold(bundle, next(iter(backends)))
    return Fitness(
        name=manifest.name,
        runs=bool(backends),
        backends=backends,
        refused=refused,
        judged=judged,
        memory_estimate=estimate,
        memory_free=free,
        peak_memory=peak,
        first_detection_seconds=seconds,
        engines=[_fit(bundle, manifest, entry) for entry in manifest.engines],
        proof=manifest.state,
        proven_here=_proven_here(bundle, manifest),
    )


def _cold(bundle: Path, backend: str) -> tuple[int | None, float | None]:
    """Peak memory in bytes and seconds of a new process up to its first detection."""
    started = time.monotonic()
    command = [sys.executable, "-c", COLD, str(bundle), backend]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True).stdout
        ended, kilobytes = json.loads(said.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None, None
    return 1024 * int(kilobytes) or None, round(ended - started, 3)


def _fit(bundle: Path, manifest: BundleManifest, entry: EngineEntry) -> Fit:
    builder = entry.builder.partition(" ")[0]
    try:
        path = engine_file(bundle, entry)
        gpu = gpu_here()
        reason = stale(entry, manifest) or misfit(entry, load_library(builder), gpu, path)
        reason = reason or ("" if gpu else "there is no NVIDIA GPU here that answers")
    except UserError as error:
        reason = str(error).rstrip(".")
    return Fit(entry.file, entry.builder, reason)


def _proven_here(bundle: Path, manifest: BundleManifest) -> str:
    own = [
        verdict
        for verdict in read_verdicts(bundle)
        if verdict.device == describe() and verdict.onnx_sha256 == manifest.onnx.sha256
    ]
    if not own:
        return ""
    latest = own[-1]
    return f"{'passed' if latest.passed else 'FAILED'} on {latest.date[:10]} with {latest.runtime}"
