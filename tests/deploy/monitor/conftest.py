"""The toy, as if it had been proven on pictures of the small world."""

import shutil
from pathlib import Path

import pytest

from detheads.deploy import Detector
from detheads.deploy.monitor.collect import collect, measured
from detheads.foundation.bundle import read_manifest, write_manifest
from tests.deploy.monitor.world import pictures

PROVEN_ON = 40


@pytest.fixture(scope="session")
def watched(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = shutil.copytree(bundle, tmp_path_factory.mktemp("watched") / "toy.detheads")
    manifest, detector, shown = read_manifest(copy), Detector(copy, threads=1), pictures(PROVEN_ON, seed=0)
    head = manifest.first
    seen = collect(
        [measured(image, manifest.input.width, manifest.input.height) for image in shown],
        [image.size for image in shown],
        detector(shown),
        counted_from=detector.draw_scores.tolist(),
        floor=head.thresholds.score,
        dataset="world",
        split="val",
    )
    write_manifest(copy, manifest.with_head(head.model_copy(update={"field": seen})))
    return copy
