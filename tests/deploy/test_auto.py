"""``auto`` measures what there is, takes the fastest that finds what the probes say, and tells what it took and why."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detheads.deploy import Detector, backends
from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest
from detheads.foundation.errors import UserError
from tests.export.toy import Toy

QUICK = '''
"""Candidates that answer at once: one with the probes' own boxes, one with others, one that does not open."""

import json
import numpy as np


class Quick:
    name = "quick 1.0"

    def __init__(self, bundle, manifest, right):
        self.file, self.right = manifest.onnx.file, right
        self.manifest = manifest
        from detheads.deploy.backends.onnx_runtime import open_backend
        self.graph, self.seen = open_backend(bundle, manifest, "CPUExecutionProvider", 1), {}

    def run(self, images):
        key = images.tobytes()
        if key not in self.seen:
            self.seen[key] = self.graph.run(images)
        found = dict(self.seen[key])
        return found if self.right else {**found, "boxes": found["boxes"] + 30}


def open_backend(bundle, manifest, provider, threads):
    if provider.endswith("absent"):
        raise RuntimeError("the device fell off")
    return Quick(bundle, manifest, provider.endswith("right"))


def candidates(manifest):
    return ["quick:absent", "quick:wrong", "quick:right"]
'''


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "quick.py").write_text(QUICK, encoding="utf-8")
    monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(tmp_path / "more")])


@pytest.mark.usefixtures("quick")
def test_the_fastest_that_agrees_is_taken_and_every_other_one_has_its_reason(bundle: Path, toy: Toy) -> None:
    detector = Detector.load(bundle, threads=1)
    assert detector.backend == "quick:right"
    assert re.match(r"quick:right, \d+\.\d ms an image \(quick 1\.0\); slower: .*cpu \d+\.\d ms", detector.choice)
    assert "quick:absent: the device fell off" in detector.choice
    assert re.search(
        r"quick:wrong: only \d+\.\d % of its best detections in the probes match PyTorch's", detector.choice
    )
    assert detector.choice.endswith("judged by 4 probes")
    again = pickle.loads(pickle.dumps(detector))
    assert (again.backend, again.choice) == ("quick:right", "")
    picture = toy.images / "bild 4.png"
    assert detector(picture).to_dict() == Detector(bundle, threads=1)(picture).to_dict()


@pytest.mark.usefixtures("quick")
def test_a_bundle_without_probes_is_taken_by_speed_alone_and_that_is_told(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy.detheads"))
    shutil.rmtree(copy / "probes")
    detector = Detector.load(copy, threads=1)
    assert "quick:wrong" not in detector.choice.partition("not used")[2]
    assert detector.choice.endswith("the bundle has no probes, so that nothing says whether they find the same")


def test_where_nothing_agrees_nothing_runs(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy.detheads"))
    index = atomic.read_json(copy / "probes" / "probes.json")
    for probe in index["probes"]:
        for box in probe["found"]["head"]["boxes"]:
            box[:] = [side + 40 for side in box]
    atomic.write_json(copy / "probes" / "probes.json", index)
    with pytest.raises(
        UserError, match=r"nothing on this machine runs .*copy\.detheads \(.*cpu: only 0\.0 % of its best"
    ):
        Detector.load(copy, threads=1)


def test_faults_of_the_bundle_are_told_once(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy.detheads"))
    graph = copy / read_manifest(copy).onnx.file
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"^\S+model\.onnx"):
        Detector.load(copy)
    with pytest.raises(UserError, match=r"^5000 threads are not possible"):
        Detector.load(bundle, threads=5000)


def test_a_named_backend_is_opened_warm_and_without_a_choice(bundle: Path) -> None:
    detector = Detector.load(bundle, backend="cpu", threads=1)
    assert (detector.backend, detector.choice) == ("cpu", "")
    with pytest.raises(UserError, match="ONNX Runtime has no abacus here"):
        Detector.load(bundle, backend="abacus")


def test_auto_is_no_backend_of_the_class_itself(bundle: Path) -> None:
    with pytest.raises(UserError, match=r"auto measures and chooses, which Detector\.load does; name one of cpu"):
        Detector(bundle, backend="auto")


def test_a_warm_up_takes_any_batch(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector(bundle, threads=1)
    sizes: list[tuple[int, ...]] = []
    run = detector.session.run

    def spy(images: np.ndarray) -> Any:
        sizes.append(images.shape)
        return run(images)

    monkeypatch.setattr(detector.session, "run", spy)
    detector.warm_up()
    detector.warm_up(3)
    assert [shape[0] for shape in sizes] == [1, 3]


def test_from_the_command_line(bundle: Path, toy: Toy, tmp_path: Path, detheads: Callable[..., Any]) -> None:
    line = ("deploy", "run", bundle, toy.images, "--no-pictures", "--threads", 1, "--backend", "auto", "--json")
    finished = detheads(*line, "-o", tmp_path / "out")
    assert finished.code == 0, finished.err
    assert "auto took " in finished.err
    assert json.loads(finished.out)["choice"].endswith("judged by 4 probes")


def test_a_device_proves_what_auto_takes(bundle: Path, tmp_path: Path, detheads: Callable[..., Any]) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy.detheads")
    finished = detheads("bundle", "prove", copy, "--backend", "auto", "--threads", 1)
    assert finished.code == 0, finished.err
    assert "auto took " in finished.err
    assert "proof holds: model.onnx on " in finished.out
