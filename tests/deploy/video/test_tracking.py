"""Numbers of objects: one for each as long as it is there, through gaps and crossings, never shared by two classes."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from detheads.deploy.detections import Detections
from detheads.foundation.errors import UserError
from tests.deploy.video.conftest import Run
from tests.deploy.video.squares import Place, write_clip
from tests.deploy.video.test_files import lines

pytest.importorskip("trackers", reason="needs detheads[video]")

from detheads.deploy.video.tracking import MANY, NO_TRACK, Tracks

HIGH = np.array([0.5, 0.5])


def found(*boxes: tuple[float, float, int, float]) -> Detections:
    """Detections of 20x20 pixels: left, top, label, score."""
    corners = [[left, top, left + 20, top + 20] for left, top, *_ in boxes]
    labels = np.array([label for _, _, label, _ in boxes], np.int32)
    scores = np.array([score for *_, score in boxes], np.float32)
    return Detections(np.array(corners, np.float64).reshape(-1, 4), scores, labels, ("",) * len(boxes))


def test_numbers_are_stable_over_a_clip(clip: Path, run: Run) -> None:
    result = run(clip, track=True)
    seen: dict[str, set[int]] = {"red": set(), "green": set()}
    for line in lines(result.folder)[1:]:
        for entry in line["detections"]:
            seen[entry["name"]].add(entry["track"])
    assert sorted(map(len, seen.values())) == [1, 1]
    assert seen["red"] | seen["green"] == {1, 2}
    assert result.tracks == 2
    assert all("track" not in entry for entry in lines(result.folder)[0]["detections"])  # not yet seen twice


def test_an_object_that_is_hidden_for_half_a_second_keeps_its_number(run: Run, tmp_path: Path) -> None:
    def hidden(frame: int) -> list[Place]:
        return [] if 10 <= frame < 25 else [("red", 10 + 2 * frame, 16.0)]

    result = run(write_clip(tmp_path / "hidden.mp4", 40, places=hidden), track=True, annotate=False)
    numbers = {line["id"]: [entry.get("track") for entry in line["detections"]] for line in lines(result.folder)}
    assert numbers[5] == [1]
    assert numbers[15] == []
    assert numbers[40] == [1]
    assert result.tracks == 1


def test_one_that_is_gone_for_longer_than_a_second_is_another_one() -> None:
    tracks = Tracks(HIGH, 30)
    for frame in range(5):
        assert tracks.of(found((10, 10, 0, 0.9)), frame / 30).tolist() == [1 if frame else NO_TRACK]
    tracks.of(found((10, 10, 0, 0.9)), 1.5)
    assert tracks.of(found((10, 10, 0, 0.9)), 1.5 + 1 / 30).tolist() == [2]


def test_classes_at_one_place_have_numbers_of_their_own_in_the_order_of_the_detections() -> None:
    tracks = Tracks(HIGH, 30)
    both = found((10, 10, 1, 0.9), (10, 10, 0, 0.8))
    tracks.of(both, 0.0)
    first = tracks.of(both, 0.1).tolist()
    assert sorted(first) == [1, 2]
    assert tracks.of(found((10, 10, 0, 0.8), (10, 10, 1, 0.9)), 0.2).tolist() == first[::-1]
    assert tracks.of(found((10, 10, 1, 0.8)), 0.3).tolist() == [first[0]]


def test_two_of_a_class_keep_their_numbers_while_they_pass_each_other() -> None:
    tracks = Tracks(HIGH, 30)
    numbers = [
        tracks.of(found((10 + 4 * frame, 10, 0, 0.9), (130 - 4 * frame, 18, 0, 0.9)), frame / 30).tolist()
        for frame in range(30)
    ]
    assert numbers[1:] == [numbers[1]] * 29
    assert sorted(numbers[1]) == [1, 2]


def test_low_scores_go_on_with_a_track_and_begin_none() -> None:
    tracks = Tracks(HIGH, 30)
    tracks.of(found((10, 10, 0, 0.9)), 0.0)
    assert tracks.of(found((11, 10, 0, 0.9), (90, 90, 0, 0.2)), 0.03).tolist() == [1, NO_TRACK]
    assert tracks.of(found((12, 10, 0, 0.2), (90, 90, 0, 0.2)), 0.06).tolist() == [1, NO_TRACK]
    assert tracks.of(found((13, 10, 0, 0.04)), 0.09).tolist() == [NO_TRACK]
    assert tracks.of(found(), 0.12).tolist() == []


def test_numbers_that_are_over_are_forgotten_and_never_given_again() -> None:
    tracks = Tracks(HIGH, 30)
    given: list[int] = []
    for place in range(MANY + 20):
        box = found((40.0 * (place % 50), 30.0 * (place % 7), 0, 0.9))
        tracks.of(box, 4.0 * place)
        given += tracks.of(box, 4.0 * place + 0.03).tolist()
    assert given == list(range(1, MANY + 21))
    assert len(tracks._numbers[0]) < 100


def test_tracking_that_lacks_a_library_of_the_system_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        """Imports as OpenCV does on a machine without a screen."""

        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "trackers":
                raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")

    for name in [name for name in sys.modules if name.partition(".")[0] == "trackers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken, *sys.meta_path])
    monkeypatch.delitem(sys.modules, "detheads.deploy.video.tracking")
    with pytest.raises(UserError, match=r"tracking does not start here \(libGL.* apt install libgl1"):
        importlib.import_module("detheads.deploy.video.tracking")
