"""What is no video, or half of one: one sentence, nothing half-written, and what was found is kept."""

import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from detheads.deploy.video import opening
from detheads.deploy.video.sources import video_source
from detheads.foundation.errors import UserError
from tests.deploy.video.conftest import Run
from tests.deploy.video.squares import read_clip, write_clip
from tests.deploy.video.test_files import lines


def music(path: Path) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def content(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.mp4"
    whole = write_clip(folder / "whole.mp4")
    if kind == "folder":
        path.mkdir()
    elif kind == "sound":
        music(path)
    else:
        data = {"empty": b"", "text": b"no video\n" * 99, "noise": np.random.default_rng(0).bytes(9999)}
        data["cut"] = whole.read_bytes()[:-3000]  # the table of an MP4 file is its end
        data["list"] = f"ffconcat version 1.0\nfile {whole.name}\n".encode()
        data["playlist"] = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{whole}\n#EXT-X-ENDLIST\n".encode()
        path.write_bytes(data[kind])
    return path


@pytest.mark.parametrize("kind", ["empty", "text", "noise", "cut", "list", "playlist"])
def test_what_is_no_video_is_one_sentence_and_no_folder(kind: str, run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{kind}.mp4 cannot be opened \(.+\); it is no video that is read here, or"):
        run(content(kind, tmp_path))
    assert not (tmp_path / "out").exists()


def test_sound_without_pictures_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sound.mp4 holds no video"):
        run(content("sound", tmp_path))


@pytest.mark.parametrize("container", ["mp4", "mkv", "avi"])
def test_a_file_that_was_cut_off_gives_the_frames_before_and_says_so(container: str, run: Run, tmp_path: Path) -> None:
    options = {"movflags": "faststart"} if container == "mp4" else {}
    data = write_clip(tmp_path / f"whole.{container}", 90, options=options).read_bytes()
    path = tmp_path / f"cut.{container}"
    path.write_bytes(data[: int(0.6 * len(data))])
    result = run(path)
    assert 20 < result.frames < 85
    assert result.frames == len(lines(result.folder))
    assert result.annotated is not None
    assert len(read_clip(result.annotated)) == result.frames
    assert result.counts.ended == "damaged"
    assert result.counts.trouble.startswith(f"{path} ")


def test_a_damaged_middle_costs_its_frames_alone(run: Run, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "middle.ts", 90)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 1500] = np.random.default_rng(0).bytes(1500)
    path.write_bytes(bytes(data))
    result = run(path)
    assert 70 < result.frames <= 90
    assert result.counts.damaged > 0
    assert result.counts.ended == "damaged"
    assert lines(result.folder)[-1]["time"] > 2.5


def test_frames_too_large_for_memory_are_refused_before_they_are_decoded(
    clip: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "MAX_PIXELS", 192 * 144 - 1)
    with pytest.raises(UserError, match=r"has frames of 192x144 pixels, more than 27,647; shrink it first"):
        run(clip)


def test_a_video_without_a_frame_leaves_nothing(clip: Path, run: Run, tmp_path: Path) -> None:
    data, path = clip.read_bytes(), tmp_path / "none.mp4"
    begin, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    path.write_bytes(data[:begin] + bytes(end - begin) + data[end:])
    with pytest.raises(UserError, match=r"none.mp4 .*; nothing was written"):
        run(path)
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_stopped_before_its_first_frame_leaves_nothing(clip: Path, run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"clip.mp4 was stopped before its first frame; nothing was written"):
        run(clip, stopped=lambda: True)
    assert not (tmp_path / "out").exists()


def test_a_codec_that_nobody_knows_is_a_sentence(clip: Path, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "unknown.mp4"
    path.write_bytes(clip.read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    with pytest.raises(UserError, match=r"unknown.mp4 is encoded in a way that PyAV cannot decode here; convert it"):
        run(path)


@pytest.mark.parametrize("name", ["camera:9", "/dev/video9"])
def test_a_camera_that_is_not_there_is_a_sentence(name: str, run: Run) -> None:
    with pytest.raises(UserError, match=rf"{name} cannot be opened \(No such file.*\); check that it is plugged in"):
        run(name)


def test_a_device_that_is_no_camera_is_a_sentence(run: Run) -> None:
    """The V4L2 of FFmpeg itself says so."""
    with pytest.raises(UserError, match=r"cannot be opened \(.+\); check that it is plugged in"):
        run("camera:/../null")


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (["a.mp4", "b.mp4"], "a.mp4 is a video, and a run takes one of them and nothing else"),
        (["photo.jpg", "rtsp://u:p@host/x"], "rtsp://host/x is a video, and a run takes one"),
        (["s3://bucket/clip.mp4"], "s3://bucket/clip.mp4 is of a kind that is not read; streams are http, "),
        (["file:///etc/passwd"], "file:///etc/passwd is of a kind that is not read"),
        (["concat://a.ts|b.ts"], "is of a kind that is not read"),
        (["clipp.mp4"], "clipp.mp4 does not exist. Did you mean 'clip.mp4'?"),
        (["folder.mp4/none.mp4"], "does not exist."),
        (["clips/*.mp4"], "clips/*.mp4 is a pattern, and a run takes one video"),
    ],
)
def test_inputs_that_make_no_sense_are_refused(
    inputs: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(clip, "clip.mp4")
    with pytest.raises(UserError) as told:
        video_source(inputs)
    assert sentence in str(told.value)


def test_pictures_folders_and_datasets_are_no_videos(tmp_path: Path) -> None:
    (tmp_path / "clips.mp4").mkdir()
    assert video_source([str(tmp_path / "clips.mp4"), "a.jpg", "photos/*.png", "C:/photos"]) is None


def test_a_folder_in_use_is_left_as_it_is(clip: Path, run: Run, tmp_path: Path) -> None:
    run(clip, max_frames=2)
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(UserError, match="is not empty; choose another folder"):
        run(clip)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_an_encoder_that_fails_keeps_what_was_found(
    clip: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full: of the annotated video alone, so that the sentence is that of the encoder."""
    monkeypatch.setattr("detheads.deploy.video.outputs.ANNOTATED_NAME", "full.mp4")
    (tmp_path / "out").mkdir()
    monkeypatch.setattr("detheads.deploy.video.outputs.require_new", lambda folder: None)
    (tmp_path / "out" / "full.partial.mp4").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"full.partial.mp4 cannot be written \(No space left"):
        run(clip)
    assert (tmp_path / "out" / "detections.partial.jsonl").read_text("utf-8").count("\n") > 0
