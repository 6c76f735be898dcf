"""``deploy run --monitor --keep``."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from detheads.data import read_dataset
from tests.conftest import Finished
from tests.deploy.monitor.conftest import PROVEN_ON
from tests.deploy.monitor.world import pictures


def folder_of(place: Path, count: int, seed: int, dark: bool) -> Path:
    place.mkdir()
    for number, image in enumerate(pictures(count, seed, lambda array: array // 3 if dark else array)):
        image.save(place / f"{number:03d}.png")
    return place


@pytest.mark.parametrize("dark", [False, True])
def test_drift_of_a_folder_is_told_with_its_cause(
    dark: bool, watched: Path, tmp_path: Path, detheads: Callable[..., Finished]
) -> None:
    shown = folder_of(tmp_path / "shown", 30, 1, dark)
    run = ["deploy", "run", watched, shown, "--no-pictures", "--threads", 1, "--monitor"]
    finished = detheads(*run, "-o", tmp_path / "out")
    assert finished.code == 0, finished.err
    assert ("the pictures are darker" in finished.err) == dark
    assert f"monitor: {'1 sign' if dark else 'no signs'} of drift in 30 pictures" in finished.out
    if dark:
        answer = json.loads(detheads(*run, "-o", tmp_path / "again", "--json").out)
        assert answer["monitor"]["pictures"] == 30
        assert answer["monitor"]["heads"]["head"]["brightness"]["drifted"] is True


def test_the_most_uncertain_pictures_become_a_dataset_that_is_read_with_a_remark(
    watched: Path, tmp_path: Path, detheads: Callable[..., Finished]
) -> None:
    shown = folder_of(tmp_path / "shown", 8, 1, dark=False)
    keep = ["--keep", tmp_path / "kept", "--keep-most", 3]
    finished = detheads("deploy", "run", watched, shown, "--threads", 1, "-o", tmp_path / "out", "--batch", 3, *keep)
    assert finished.code == 0, finished.err
    dataset = read_dataset(tmp_path / "kept", "train")
    assert f"{tmp_path / 'kept'}: {len(dataset.images)} pictures to label" in finished.out
    assert 1 <= len(dataset.images) <= 3
    informed = detheads("data", "info", tmp_path / "kept")
    assert informed.code == 0, informed.err
    if any(len(objects.boxes) for objects in dataset.objects):
        assert "proposal that nobody has corrected" in informed.out + informed.err


def test_what_cannot_be_observed_is_refused_before_anything_is_written(
    bundle: Path, watched: Path, tmp_path: Path, detheads: Callable[..., Finished]
) -> None:
    shown = folder_of(tmp_path / "shown", 1, 1, dark=False)
    out = ["-o", tmp_path / "out"]
    tiled = detheads("deploy", "run", watched, shown, "--monitor", "--tile", 64, *out)
    assert (tiled.code, "leave --tile out" in tiled.err) == (1, True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    foreign = detheads("deploy", "run", watched, shown, "--keep", tmp_path / "mine", *out)
    assert (foreign.code, "holds no set of pictures to label" in foreign.err) == (1, True)
    assert not (tmp_path / "out").exists()


def test_too_few_pictures_are_told(
    bundle: Path, watched: Path, tmp_path: Path, detheads: Callable[..., Finished]
) -> None:
    shown = folder_of(tmp_path / "shown", 2, 1, dark=True)
    run = ["--monitor", "--no-pictures", "--threads", 1]
    finished = detheads("deploy", "run", watched, shown, *run, "-o", tmp_path / "out")
    assert "monitor: 2 pictures are too few to tell drift" in finished.out
    finished = detheads("deploy", "run", bundle, shown, *run, "-o", tmp_path / "other")
    assert "monitor: the bundle was proven on 7 pictures, too few" in finished.out
    assert PROVEN_ON > 7


def test_the_frames_of_a_video_are_observed_too(
    watched: Path, tmp_path: Path, detheads: Callable[..., Finished]
) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "dark.mp4"), "w") as clip:
        stream = clip.add_stream("mpeg4", rate=10, width=80, height=64, pix_fmt="yuv420p", bit_rate=4_000_000)
        for image in pictures(30, 1, lambda array: array // 3):
            clip.mux(stream.encode(av.VideoFrame.from_image(image)))
        clip.mux(stream.encode(None))
    run = ["deploy", "run", watched, tmp_path / "dark.mp4", "--no-pictures", "--threads", 1, "--monitor"]
    finished = detheads(*run, "--keep", tmp_path / "kept", "-o", tmp_path / "out", "--json")
    assert finished.code == 0, finished.err
    answer = json.loads(finished.out)
    assert answer["monitor"]["pictures"] == answer["frames"] == 30
    assert any("the pictures are darker" in sentence for sentence in answer["monitor"]["warnings"])
    assert "the pictures are darker" in finished.err
    assert len(read_dataset(tmp_path / "kept", "train").images) == answer["kept"] > 0
