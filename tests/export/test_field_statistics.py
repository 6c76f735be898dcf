"""A proof stores what its pictures look like, so that a device can tell when others come."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detheads.deploy import Detector
from detheads.deploy.monitor.drift import BINS
from detheads.foundation.bundle import read_manifest
from tests.export.toy import Toy


def test_the_bundle_holds_histograms_of_the_proofs_pictures_and_detections(bundle: Path, toy: Toy) -> None:
    manifest = read_manifest(bundle)
    seen = manifest.first.field
    assert seen is not None
    pictures = sorted(toy.images.iterdir())
    assert (seen.dataset, seen.split, seen.images) == ("pictures of it", "val", len(pictures))
    assert seen.counted_from == [(manifest.best_scores or {}).get(entry.name, 0.3) for entry in manifest.classes]
    for name in ("brightness", "contrast", "warmth", "colour", "score", "count"):
        assert sum(seen.histograms[name].counts) == len(pictures)
    detector = Detector(bundle)
    best, brightness = [], []
    for path in pictures:
        found = detector(path)
        best.append(float(found.scores.max(initial=0)))
        brightness.append(float(np.asarray(Image.open(path).convert("RGB")).mean()))
    assert seen.histograms["score"].counts == np.histogram(best, BINS, (0, 1))[0].tolist()
    stored = np.repeat(np.arange(BINS), seen.histograms["brightness"].counts) * 256 / BINS
    assert sorted(brightness) == pytest.approx(stored + 2, abs=6)  # resizing changes a mean a little
