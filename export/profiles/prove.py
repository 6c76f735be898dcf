"""The proof of a profile: its graph, fed and read as its host does it, against PyTorch on the same pictures.

The PyTorch side resizes and pads as the host does, by code of its own. What that costs against the letterbox that the
head was trained with stands beside it.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from PIL import Image

from detheads.deploy import Detections
from detheads.deploy.backends.onnx_runtime import open_graph
from detheads.deploy.runtime import load_onnxruntime
from detheads.deploy.session import CPU
from detheads.evaluation.coco import Statistics, evaluate
from detheads.export.criteria import ROUNDING
from detheads.export.limits import Limits
from detheads.export.live import LiveDetections, LiveDetector
from detheads.export.matching import Comparison
from detheads.export.precision.rounding import low_types, rounded
from detheads.export.profiles import live_frames, load_profile
from detheads.export.profiles.profile import Arrays, Profile, Rows, planes
from detheads.export.profiles.result import ProfileResult
from detheads.export.report import VerificationReport
from detheads.export.sides import run_artefact, run_live
from detheads.export.source import Trained
from detheads.export.verify import Reference, coco_results
from detheads.foundation.bundle import profile_file, read_manifest
from detheads.foundation.geometry import has_area
from detheads.foundation.manifest import BundleManifest, ProfileEntry, Thresholds
from detheads.foundation.progress import Progress, silent


class HostedGraph:
    """A profile's graph with its host around it: what :func:`detheads.export.sides.run_artefact` runs.

    A graph in FP16 or BF16 is run rounded, as in the proof of the bundle's own: a CPU computes in neither.

    Args:
        graph: the ONNX file.
        trained: gives the features where the host runs the backbone.
    """

    def __init__(
        self, graph: Path, profile: Profile, trained: Trained, thresholds: Thresholds, threads: int | None = None
    ) -> None:
        self.profile, self.trained, self.thresholds = profile, trained, thresholds
        model = onnx.load_model(str(graph))
        low = low_types(model)
        given = bytes(rounded(model).SerializeToString()) if low else graph
        self._session = open_graph(given, threads=threads)
        self.runtime = (
            f"onnxruntime {load_onnxruntime().__version__} {CPU}{', results rounded as the types say' if low else ''}"
        )

    def detect(self, images: Sequence[Image.Image]) -> list[Detections]:
        """RGB pictures of any sizes as one batch."""
        spec = self.trained.checkpoint.feature_spec
        arrays, ways = zip(*(self.profile.host_input(one, spec.width, spec.height) for one in images), strict=True)
        found = self.profile.read(self._run(np.stack(arrays)), self.thresholds, spec)
        return [_detections(rows, way.to_original(rows.boxes)) for rows, way in zip(found, ways, strict=True)]

    def _run(self, images: NDArray[np.uint8]) -> Arrays:
        given = self._features(images) if self.profile.features else self.profile.feed(images)
        wanted = {entry.name for entry in self._session.get_inputs()}
        names = [entry.name for entry in self._session.get_outputs()]
        values = self._session.run(names, {name: array for name, array in given.items() if name in wanted})
        return dict(zip(names, values, strict=True))

    @torch.inference_mode()
    def _features(self, images: NDArray[np.uint8]) -> Arrays:
        backbone = self.trained.backbone
        maps = backbone(backbone.normalise(torch.from_numpy(planes(images)).to(backbone.mean.device)))
        return {name: values.cpu().numpy() for name, values in maps.items()}


def _detections(rows: Rows, original: NDArray[np.float64]) -> Detections:
    kept = has_area(original)
    return Detections(original[kept], rows.scores[kept], rows.labels[kept].astype(np.int32))


def with_profiles(
    report: VerificationReport, bundle: Path, reference: Reference, on_progress: Progress = silent
) -> VerificationReport:
    """The report with the proof of the bundle's profiles; one that fails makes the whole fail.

    Raises:
        UserError: see :func:`prove_profiles`.
    """
    results = prove_profiles(bundle, read_manifest(bundle), reference, on_progress)
    further = [reason for result in results for reason in result.reasons]
    return replace(report, profiles=results, reasons=[*report.reasons, *further])


def prove_profiles(
    bundle: Path, manifest: BundleManifest, reference: Reference, on_progress: Progress = silent
) -> list[ProfileResult]:
    """Run the proof's images through every profile of a bundle.

    Raises:
        UserError: when a file of a profile is not the one that the manifest describes, or its name is unknown.
    """
    hosts: dict[str, tuple[list[LiveDetections], Statistics]] = {"": (reference.found, reference.statistics)}
    limits = reference.proof.limits_of(manifest.precision)
    results = []
    for entry in manifest.profiles:
        profile, path = load_profile(entry.name), profile_file(bundle, entry)
        if profile.frame not in hosts:
            hosts[profile.frame] = _live(profile, reference, on_progress)
        originals, live = hosts[profile.frame]
        graph = HostedGraph(path, profile, reference.trained, reference.live.thresholds, reference.proof.threads)
        batch = profile.most_images or max(1, *reference.proof.batch_sizes)
        found = run_artefact(graph, reference.dataset, batch, _titled(on_progress, f"profile {entry.name}"))
        statistics = evaluate(reference.dataset.coco_json(), coco_results(reference.dataset, found))
        versus = Comparison.of(originals, found)
        results.append(
            ProfileResult(
                entry=entry,
                runtime=graph.runtime,
                batch=batch,
                images=len(reference.dataset.images),
                live=live,
                letterboxed=reference.statistics,
                statistics=statistics,
                versus_live=versus,
                reasons=_reasons(entry, live.require_ap() - statistics.require_ap(), versus, limits),
            )
        )
    return results


def _live(profile: Profile, reference: Reference, on_progress: Progress) -> tuple[list[LiveDetections], Statistics]:
    """PyTorch on pictures as a host makes them."""
    live = reference.live
    hosted = LiveDetector(
        live.backbone, live.head, live.spec, live.thresholds, live.device, getattr(live_frames, profile.frame)
    )
    dataset = reference.dataset
    _, found, _ = run_live(hosted, dataset, _titled(on_progress, f"PyTorch as {profile.name}"))
    return found, evaluate(dataset.coco_json(), coco_results(dataset, found))


def _titled(on_progress: Progress, title: str) -> Progress:
    return lambda _, done, total: on_progress(title, done, total)


def _reasons(entry: ProfileEntry, drop: float, versus: Comparison, limits: Limits) -> list[str]:
    found = []
    allowed = (limits.drops if drop > 0 else limits.gains)["AP"]
    if not abs(drop) <= allowed + ROUNDING:
        found.append(f"{entry.file}: mAP differs by {drop:+.4f}, allowed is {allowed:g}")
    if versus.share < limits.matched:
        found.append(
            f"{entry.file}: only {100 * versus.share:.2f} % of detections match those of PyTorch on pictures as "
            f"{entry.host} makes them, required are {100 * limits.matched:g} %"
        )
    return found
