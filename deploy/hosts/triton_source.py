"""Which artefact of a bundle goes to Triton, what it takes, and which proof speaks of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from detheads.deploy.agreement import require_agreement
from detheads.deploy.engines.library import AHEAD_OF_TIME
from detheads.deploy.engines.recognition import stale
from detheads.deploy.hosts.triton_config import TENSORRT
from detheads.foundation.bundle import engine_file, onnx_file, profile_file
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import BundleManifest, EngineEntry
from detheads.foundation.onnx_summary import GraphSummary, summarise

PROFILE: Final = "triton"
LIBRARY: Final = "tensorrt"
"""The library that Triton's TensorRT backend loads."""
USUAL_BATCH: Final = 8
"""Images in one run at most, unless a user says; a proof may have tried more."""


@dataclass(frozen=True)
class Source:
    """What is copied.

    Attributes:
        path: the artefact, whose digest was compared.
        further: files that it reads, by their names beside it, with their digests.
        graph: its inputs and outputs.
        batches: images in one run of the artefact, at least and at most; no bound where that is None.
        proven: the largest batch that a proof ran; None where none did.
        covered: a sentence, without its full stop: what was proven of it.
        remarks: what else to know.
    """

    path: Path
    sha256: str
    further: dict[str, tuple[Path, str]]
    graph: GraphSummary
    batches: tuple[int, int | None]
    proven: int | None
    covered: str
    remarks: tuple[str, ...] = ()


def find_source(bundle: Path, manifest: BundleManifest, platform: str) -> Source:
    """The artefact for a platform, compared with its digest: the engine, the graph of the profile, or the bundle's own.

    Raises:
        UserError: when there is none that Triton runs, or a file is not the one that the manifest describes.
    """
    return _engine(bundle, manifest) if platform == TENSORRT else _graph(bundle, manifest)


def _graph(bundle: Path, manifest: BundleManifest) -> Source:
    entry = next((profile for profile in manifest.profiles if profile.name == PROFILE), None)
    if entry is not None:
        path = profile_file(bundle, entry)
        proof = entry.proof if entry.proof is not None and entry.proof.sha256 == entry.sha256 else None
        verdict = "never proven" if proof is None else "proven" if proof.passed else "which failed its proof"
        return Source(
            path, entry.sha256, {}, _batched(path, summarise(path)), (1, None), None if proof is None else proof.batch,
            f"the graph of the bundle's profile {PROFILE}, {verdict}",
        )  # fmt: skip
    path = onnx_file(bundle, manifest)
    graph = _batched(path, require_agreement(path, manifest))
    home = PurePosixPath(manifest.onnx.file).parent
    further = {
        str(PurePosixPath(name).relative_to(home)): (bundle / name, digest)
        for name, digest in manifest.onnx.external.items()
    }
    covered = (
        f"the bundle's own graph, {manifest.state}: it was exported without --profile {PROFILE}, so what is proven of "
        "the bundle holds of it, and nothing was proven of a profile"
    )
    return Source(path, manifest.onnx.sha256, further, graph, (1, None), _tried(manifest, manifest.onnx.file), covered)


def _engine(bundle: Path, manifest: BundleManifest) -> Source:
    engines = {entry.builder.partition(" ")[0]: entry for entry in manifest.engines}
    build = f"detheads bundle build {bundle} --library {LIBRARY}"
    entry = engines.get(LIBRARY)
    if entry is None:
        only = (
            f"{bundle} has an engine of {AHEAD_OF_TIME} only, which Triton's TensorRT backend does not load"
            if AHEAD_OF_TIME in engines
            else f"{bundle} has no engine of {LIBRARY}"
        )
        raise UserError(f"{only}; build one on a machine with Triton's GPU and its release of TensorRT: {build}.")
    if reason := stale(entry, manifest):
        raise UserError(f"{entry.file} of {bundle} cannot be served: {reason}; build it again: {build}.")
    if entry.stripped:
        raise UserError(
            f"{entry.file} was built without weights, and Triton does not put them back; build it without "
            f"--strip-weights: {build}."
        )
    smallest, _, largest = entry.batch
    if smallest > 1:
        raise UserError(
            f"{entry.file} takes batches from {smallest} on, and Triton runs single images, too; build it with --batch "
            f"1:{smallest}:{largest}: {build}."
        )
    path = engine_file(bundle, entry)
    graph_path = onnx_file(bundle, manifest)
    graph = _batched(graph_path, require_agreement(graph_path, manifest))
    tried = _tried(manifest, entry.file)
    covered = f"the engine {entry.file}, {entry.status}" + ("" if tried else "; no proof ran it")
    return Source(path, entry.sha256, {}, graph, (1, largest), tried, covered, tuple(_conditions(entry)))


def _conditions(entry: EngineEntry) -> Iterable[str]:
    """What must be so of the server that loads an engine."""
    where = f" on {entry.gpu}" if entry.gpu else ""
    yield f"it was built with {entry.builder}{where}: Triton must bring that release of TensorRT, and such a GPU"
    if entry.version_compatible:
        yield "start Triton with --backend-config=tensorrt,version-compatible=true: the engine holds code of its own"


def _tried(manifest: BundleManifest, file: str) -> int | None:
    """The largest batch at which the proofs of all heads ran a file."""
    proofs = [head.verification for head in manifest.heads if head.verification is not None]
    return max((each.batch for proof in proofs for each in proof.artefacts if each.file == file), default=None)


def _batched(path: Path, graph: GraphSummary) -> GraphSummary:
    """Refuse a graph that has not a free batch axis everywhere."""
    for tensor in (*graph.inputs, *graph.outputs):
        first, *others = tensor.shape or (0,)
        if isinstance(first, int) or not all(isinstance(size, int) for size in others):
            raise UserError(
                f"{path} has {tensor}, and Triton wants a free batch axis first and fixed sizes behind it; export the "
                "bundle again."
            )
    return graph
