"""Pictures for a bundle to carry, and PyTorch's detections in them: generated ones, or some of a dataset's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image

from detheads.data.dataset import Dataset
from detheads.data.pictures import load_picture
from detheads.data.scenes import render_scene
from detheads.deploy.probes import FOLDER, INDEX, Probe, ProbeSet, ReferenceDetections
from detheads.deploy.prove import share_of_best
from detheads.export.live import LiveDetections, LiveDetector
from detheads.export.precision.executable import executions
from detheads.export.probes import evenly_spaced
from detheads.export.source import Trained
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import BundleManifest, Precision, Thresholds
from detheads.foundation.text import visible

COUNT: Final = 4
"""Pictures, when no other number is asked for: about a megabyte."""
CANDIDATES: Final = 3
"""Generated pictures that are tried for each one that is kept; those with the most detections stay."""
ENOUGH: Final = 20
"""Detections of a picture from which on it is not passed over for another."""
SEED: Final = 20261128
LONGEST: Final = 1024
"""Pixels; larger pictures of a dataset are made smaller."""
SLACK: Final[Mapping[Precision, float]] = {"fp32": 0.02, "fp16": 0.05, "bf16": 0.10, "int8": 0.10, "mixed": 0.10}
"""By which the share of matched detections may be lower on a device than where the bundle was made. In FP32 two
libraries differ by rounding alone (ONNX Runtime and OpenVINO: not at all on these pictures); kernels of lower precision
round, add and saturate otherwise on each device, and near-equal scores change places."""

Seen = tuple[Image.Image, dict[str, LiveDetections]]
"""A picture and what PyTorch finds in it, by head."""


@dataclass(frozen=True)
class ProbeChoice:
    """Which pictures a bundle is to carry.

    Attributes:
        count: none to :data:`detheads.deploy.probes.MOST`.
        own: the dataset's own pictures, which its licence must permit to pass on; generated ones otherwise.
    """

    count: int = COUNT
    own: bool = False


def write_probes(
    bundle: Path,
    manifest: BundleManifest,
    trained: Mapping[str, Trained],
    choice: ProbeChoice,
    dataset: Dataset | None = None,
) -> None:
    """Put pictures and PyTorch's detections into a bundle whose graph is written.

    Args:
        trained: what each head of the bundle was made from, by its name.
        dataset: for its own pictures.

    Raises:
        UserError: when its own pictures are asked for without a dataset, or one cannot be read.
    """
    if not choice.count:
        return
    if choice.own and dataset is None:
        raise UserError("probes from the data need --data DATASET.")
    live = {head.name: _live(trained[head.name], head.thresholds) for head in manifest.heads}
    own = dataset if choice.own else None
    kept = _generated(live, choice.count) if own is None else _own(live, own, choice.count)
    probes = []
    for number, (picture, found) in enumerate(kept, start=1):
        name = f"{FOLDER}/{number:02d}.png"
        with atomic.replacing(bundle / name) as partial:
            picture.save(partial)  # pixels alone: what a camera noted of place and time stays behind
        entries = {head: _entry(each) for head, each in found.items()}
        probes.append(Probe(file=name, sha256=atomic.sha256_of(bundle / name), found=entries))
    measured = _measured(bundle, manifest, kept)
    probe_set = ProbeSet(
        source="generated scenes" if own is None else visible(f"{own.name} {own.split}"),
        reference=f"torch {torch.__version__}, torchvision NMS",
        onnx_sha256=manifest.onnx.sha256,
        required=max(0.0, measured - SLACK[manifest.precision]),
        measured=measured,
        probes=probes,
    )
    atomic.write_json(bundle / INDEX, probe_set.model_dump(mode="json"), indent=None)


def _live(trained: Trained, thresholds: Thresholds) -> LiveDetector:
    return LiveDetector(
        trained.backbone, trained.head, trained.checkpoint.feature_spec, thresholds, torch.device("cpu")
    )


def _generated(live: Mapping[str, LiveDetector], count: int) -> list[Seen]:
    """Seeded scenes, those in which the heads detect the most: a picture without detections proves nothing."""
    longest = max(max(side.spec.width, side.spec.height) for side in live.values())
    tried: list[tuple[int, Seen]] = []
    for number in range(CANDIDATES * count):
        random = np.random.Generator(np.random.PCG64([SEED, number]))
        size = round(longest * (0.75 + 0.75 * random.random()))  # smaller and larger than the input
        picture = Image.fromarray(render_scene(random, min(LONGEST, max(64, size))).pixels)
        found = _seen(live, picture)
        tried.append((min(ENOUGH, *(len(each.scores) for each in found[1].values())), found))
        if sum(enough == ENOUGH for enough, _ in tried) == count:
            break
    return [found for _, found in sorted(tried, key=lambda each: -each[0])[:count]]  # sorting keeps the order of equals


def _own(live: Mapping[str, LiveDetector], dataset: Dataset, count: int) -> list[Seen]:
    """Pictures spread over a dataset, made smaller where they are large."""
    found = []
    for index in evenly_spaced(len(dataset.images), count):
        picture = load_picture(dataset.images[index])
        picture.thumbnail((LONGEST, LONGEST))
        found.append(_seen(live, picture))
    return found


def _seen(live: Mapping[str, LiveDetector], picture: Image.Image) -> Seen:
    return picture, {name: side.detect(picture) for name, side in live.items()}


def _entry(found: LiveDetections) -> ReferenceDetections:
    return ReferenceDetections(
        boxes=[tuple(box) for box in found.boxes.tolist()],
        scores=found.scores.tolist(),
        labels=found.labels.tolist(),
    )


def _measured(bundle: Path, manifest: BundleManifest, kept: list[Seen]) -> float:
    """What the graph reaches here, run as its types say (see :func:`executions`); the head that agrees least counts."""
    shares = []
    for head in manifest.heads:
        found = executions(bundle, head=head.name)[-1].detector.detect([picture for picture, _ in kept], 1)
        shares.append(share_of_best([each[head.name] for _, each in kept], found)[1])
    return min(shares)
