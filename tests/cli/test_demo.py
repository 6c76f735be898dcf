"""The demo is a making of generated scenes, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from detheads.foundation.bundle import read_manifest


@pytest.mark.slow
def test_the_demo_goes_from_nothing_to_a_proven_bundle(tmp_path: Path) -> None:
    line = ("demo", "-o", tmp_path / "out", "--epochs", 1, "--json")
    command = [sys.executable, "-m", "detheads", *map(str, line)]
    for _ in range(2):  # the second time it finds its caches and its run
        finished = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        assert finished.returncode == 0, finished.stderr[-2000:]
        answer = json.loads(finished.stdout)
        assert answer["AP"] == pytest.approx(answer["live_ap"], abs=1e-3)
        assert answer["map_drop"] == pytest.approx(answer["live_ap"] - answer["bundle_ap"], abs=1e-9)
        assert abs(answer["map_drop"]) <= 0.001
        for name in ("bundle", "picture", "report", "page"):
            assert Path(answer[name]).exists(), name
        with Image.open(answer["picture"]) as picture:
            picture.load()
        assert read_manifest(Path(answer["bundle"])).state == "verified"
        if answer["engine"] is None:
            assert answer["engine_status"]
        else:
            assert Path(answer["engine"]).stat().st_size > 100_000
