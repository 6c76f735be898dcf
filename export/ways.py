"""Where else than on the CPU a proof runs a bundle: backends asked for, and engines that this machine can run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detheads.deploy import Detector
from detheads.export.precision.executable import Execution
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import BundleManifest, EngineEntry


@dataclass(frozen=True)
class Ways:
    """What a proof runs besides the graph on the CPU.

    Attributes:
        executions: in the order asked for.
        remarks: one sentence for each engine that does not run here.
    """

    executions: list[Execution]
    remarks: list[str]


def further_ways(
    bundle: Path,
    manifest: BundleManifest,
    backends: Sequence[str] | None,
    threads: int | None,
    head: str,
) -> Ways:
    """Open the backends that are asked for; without any, those of the bundle's engines that run on this machine.

    Raises:
        UserError: when a backend that was asked for cannot run the bundle. An engine that nobody asked for stays built
            and not executed.
    """
    wanted = list(dict.fromkeys(backends or ()))
    if backends is not None:
        detectors = [Detector(bundle, backend=name, threads=threads, head=head) for name in wanted if name != "cpu"]
        return Ways([_execution(bundle, detector) for detector in detectors], [])
    found, remarks = [], []
    for engine in manifest.engines:
        library = engine.builder.partition(" ")[0]
        try:
            found.append(_execution(bundle, Detector(bundle, backend=library, threads=threads, head=head)))
        except UserError as error:
            remarks.append(f"{engine.file} was built, not executed: {str(error).rstrip('.')}")
    return Ways(found, remarks)


def possible_sizes(manifest: BundleManifest, file: str, sizes: Sequence[int]) -> list[int]:
    """The batch sizes that an artefact takes: an engine those of its profile, the graph all; 1 always among them."""
    engine = engine_named(manifest, file)
    largest = max(sizes) if engine is None else engine.batch[2]
    return sorted({1, *(size for size in sizes if size <= largest)})


def engine_named(manifest: BundleManifest, file: str) -> EngineEntry | None:
    """The entry of an engine by its file; None for the graph."""
    return next((engine for engine in manifest.engines if engine.file == file), None)


def executed(engines: Sequence[EngineEntry], files: Sequence[str]) -> list[EngineEntry]:
    """The engines, those among the files told as executed."""
    return [engine.model_copy(update={"status": "executed"}) if engine.file in files else engine for engine in engines]


def _execution(bundle: Path, detector: Detector) -> Execution:
    return Execution(detector, bundle / detector.session.file)
