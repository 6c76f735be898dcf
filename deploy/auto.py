"""Which backend runs a bundle fastest on this machine: by measuring, and told with its figures."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Final

import numpy as np
from PIL import Image

from detheads.deploy.agreement import require_agreement
from detheads.deploy.detector import Detector, stacked
from detheads.deploy.probes import INDEX, FoundArrays, ReferenceDetections, read_probes
from detheads.deploy.prove import share_of_best
from detheads.deploy.session import candidates
from detheads.foundation.bundle import onnx_file, read_manifest
from detheads.foundation.cores import check_threads
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import PAD_VALUE
from detheads.foundation.images import load_image
from detheads.foundation.manifest import BundleManifest
from detheads.foundation.timing import Contender, take_turns

MOST: Final = 6
"""Backends that are opened and measured; all of them are in memory at once, so that they can take turns."""
PICTURES: Final = 8
"""Probes by which a backend is judged, the first ones; a bundle carries four unless it was told otherwise."""
ROUNDS: Final = 9
SECONDS: Final = 5.0
"""Rounds that are measured, fewer when they take longer than this together, and one at least."""
PAUSE: Final = 0.01
"""Seconds of rest before each run; ONNX Runtime's threads spin for some milliseconds after one."""


@dataclass(frozen=True)
class Trials:
    """What became of each candidate, by its name.

    Attributes:
        detectors: those that run and find what PyTorch found.
        milliseconds: median of one image through the model, of each of these.
        refused: why others do not, a sentence or a part of one.
        judged: by what it is known that they find the same.
    """

    detectors: dict[str, Detector]
    milliseconds: dict[str, float]
    refused: dict[str, str]
    judged: str

    @property
    def by_speed(self) -> list[str]:
        """The names of those that run, the fastest first."""
        return sorted(self.milliseconds, key=lambda name: self.milliseconds[name])

    @property
    def reasons(self) -> str:
        """Why each of the others does not run."""
        return "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in self.refused.items())


def choose(kind: type[Detector], bundle: Path, *, threads: int | None = None, head: str | None = None) -> Detector:
    """The fastest detector of a bundle here (see :func:`try_all`), with ``choice``.

    Raises:
        UserError: when the bundle cannot be used, or nothing here runs it, with each one's reason.
    """
    trials = try_all(kind, bundle, threads=threads, head=head)
    if not trials.detectors:
        raise UserError(f"nothing on this machine runs {bundle} ({trials.reasons}).")
    milliseconds, (best, *others) = trials.milliseconds, trials.by_speed
    chosen = trials.detectors[best]
    told = [f"{best}, {milliseconds[best]:.1f} ms an image ({chosen.session.runtime})"]
    told += [f"slower: {', '.join(f'{name} {milliseconds[name]:.1f} ms' for name in others)}"] if others else []
    told += [f"not used: {trials.reasons}"] if trials.reasons else []
    told += [trials.judged]
    chosen.choice = "; ".join(told)
    return chosen


def try_all(kind: type[Detector], bundle: Path, *, threads: int | None = None, head: str | None = None) -> Trials:
    """Open and time a bundle in every backend here, and hold what each finds in its probes against PyTorch.

    Candidates are what the files in ``backends/`` name: ONNX Runtime's CPU and CUDA, OpenVINO's devices, the bundle's
    engines. Each that opens runs the probes, then they take turns with one image at a time, for :data:`SECONDS` at
    most; how long a library takes to open is its own affair. A bundle without probes gives no word on whether they
    agree, and that is told.

    Raises:
        UserError: when the bundle cannot be used.
    """
    manifest = read_manifest(bundle)
    check_threads(threads)
    require_agreement(onnx_file(bundle, manifest), manifest)  # once, and not as the fault of every candidate
    trial = _Trial(bundle, manifest, head)
    names, refused = candidates(manifest)
    refused |= dict.fromkeys(names[MOST:], f"{MOST} others come first")
    detectors: dict[str, Detector] = {}
    for name in names[:MOST]:
        try:
            detector = kind(bundle, backend=name, threads=threads, head=head)
            reason = trial.fault(detector)
        except Exception as error:  # a library that fails while it is tried may raise anything
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if reason:
            refused[name] = reason
        else:
            detectors[name] = detector
    milliseconds = _measure(detectors, trial.picture or _grey(manifest)) if detectors else {}
    return Trials(detectors, milliseconds, refused, trial.told)


class _Trial:
    """What a candidate must find, and the picture that it is timed with."""

    def __init__(self, bundle: Path, manifest: BundleManifest, head: str | None) -> None:
        heads = manifest.heads if head is None else [manifest.head_named(head)]
        offsets = np.cumsum([0, *(len(each.classes) for each in heads)]).tolist()
        probes = read_probes(bundle, manifest) if (bundle / INDEX).is_file() else None
        kept = probes.probes[:PICTURES] if probes else []
        self._required = probes.required if probes else 0.0
        self._pictures = [load_image(bundle / probe.file) for probe in kept]
        self._wanted = [
            _joined({offset: probe.found[each.name] for each, offset in zip(heads, offsets, strict=False)})
            for probe in kept
        ]
        self._proves = any(len(wanted.scores) for wanted in self._wanted)
        self.picture = self._pictures[0] if kept else None

    @property
    def told(self) -> str:
        if not self._proves:
            return "the bundle has no probes, so that nothing says whether they find the same"
        return f"judged by {len(self._pictures)} probes"

    def fault(self, detector: Detector) -> str:
        """Run the probes one by one; what is wrong with what is found, empty when nothing is."""
        if not self._proves:
            detector.warm_up()
            return ""
        _, share, _, _ = share_of_best(self._wanted, detector.detect(self._pictures, batch=1))
        if share >= self._required:
            return ""
        return (
            f"only {100 * share:.1f} % of its best detections in the probes match PyTorch's, required are "
            f"{100 * self._required:.1f} %"
        )


def _measure(detectors: Mapping[str, Detector], picture: Image.Image) -> dict[str, float]:
    """Median milliseconds of one image through the model, by backend. All have run before."""
    batch = stacked([next(iter(detectors.values())).prepare(picture)])
    until = monotonic() + SECONDS

    def rounds() -> Iterator[Mapping[str, Contender]]:
        for number in range(ROUNDS):
            if number and monotonic() > until:
                return
            yield {name: partial(detector.session.run, batch) for name, detector in detectors.items()}

    timing = take_turns(rounds(), warm_up=0, pause=PAUSE)
    return {name: 1000 * timing.median(name) for name in detectors}


def _grey(manifest: BundleManifest) -> Image.Image:
    return Image.new("RGB", (manifest.input.width, manifest.input.height), (PAD_VALUE,) * 3)


def _joined(found: Mapping[int, ReferenceDetections]) -> FoundArrays:
    """The detections of all heads, best first; each head's labels are counted from the number it stands under."""
    parts = [(offset, head.arrays) for offset, head in found.items()]
    boxes = np.concatenate([part.boxes for _, part in parts])
    scores = np.concatenate([part.scores for _, part in parts])
    labels = np.concatenate([part.labels + offset for offset, part in parts])
    order = np.argsort(-scores, kind="stable")
    return FoundArrays(boxes[order], scores[order], labels[order])
