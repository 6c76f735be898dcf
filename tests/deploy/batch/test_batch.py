"""Batch runs in one process: the same detections as elsewhere, each picture once, whatever is killed or changed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detheads.deploy import Detector
from detheads.deploy.batch.listing import PassedOver, pictures, require_sources
from detheads.foundation.bundle import read_manifest, write_manifest
from detheads.foundation.errors import UserError
from tests.export.toy import SIZES, Toy


def lines(output: Path) -> list[dict[str, Any]]:
    """All lines of all parts, in order."""
    files = sorted((output / "parts").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def written(output: Path) -> dict[str, bytes]:
    """What does not depend on how long the work took."""
    return {path.name: path.read_bytes() for path in [*output.glob("parts/*.jsonl"), output / "summary.json"]}


@pytest.fixture
def photos(toy: Toy, tmp_path: Path) -> Path:
    """The toy's pictures in two folders, with one that is none."""
    folder = tmp_path / "photos"
    for number, path in enumerate(sorted(toy.images.iterdir())):
        place = folder / ("day 1" if number < 3 else "day 2")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place / path.name)
    (folder / "day 1" / "bild 1b.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def uninterrupted(bundle: Path, photos: Path, tmp_path: Path, detheads) -> Path:
    done = detheads("deploy", "batch", bundle, photos, "-o", tmp_path / "reference", "--part-size", 3, "--threads", 1)
    assert done.code == 0, done.err
    return tmp_path / "reference"


def test_every_picture_is_there_once_with_what_the_detector_finds(
    bundle: Path, photos: Path, uninterrupted: Path
) -> None:
    found = {entry["image"]: entry for entry in lines(uninterrupted)}
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    (bad,) = json.loads((uninterrupted / "parts" / "000000.json").read_text(encoding="utf-8"))["unreadable"]
    assert bad["image"] == "day 1/bild 1b.png"
    assert "is not an image" in bad["reason"]
    assert sorted([*found, bad["image"]]) == names
    assert sorted([*(entry["id"] for entry in found.values()), bad["id"]]) == list(range(1, len(names) + 1))
    detector = Detector(bundle, threads=1)
    for name, entry in found.items():
        expected = detector(photos / name)
        assert len(expected) > 3
        np.testing.assert_allclose([row["box"] for row in entry["detections"]], expected.boxes, atol=1e-3)
        np.testing.assert_allclose([row["score"] for row in entry["detections"]], expected.scores, atol=1e-6)
        assert [entry["width"], entry["height"]] == list(Image.open(photos / name).size)
    summary = json.loads((uninterrupted / "summary.json").read_text(encoding="utf-8"))
    assert (summary["complete"], summary["pictures"], summary["unreadable"]) == (True, len(names), 1)
    assert [part["pictures"] for part in summary["parts"]] == [3, 3, 2]


KILLED = """
import os, signal, sys
from detheads.cli.main import run
from detheads.deploy.writers import JsonLines
write, count = JsonLines.write, 0
def counting(self, record):
    global count
    write(self, record)
    count += 1
    if count == 4:
        os.kill(os.getpid(), signal.SIGKILL)
JsonLines.write = counting
run(sys.argv[1:])
"""


def test_a_killed_run_goes_on_with_the_parts_that_are_missing(
    bundle: Path, photos: Path, uninterrupted: Path, tmp_path: Path, detheads
) -> None:
    output = tmp_path / "killed"
    arguments = ["deploy", "batch", str(bundle), str(photos), "-o", str(output), "--part-size", "3", "--threads", "1"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], env={**os.environ}, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    parts = output / "parts"
    assert sorted(path.name for path in parts.iterdir() if path.name[0] != ".") == ["000000.json", "000000.jsonl"]
    assert len(list(parts.glob(".000001.*.partial*"))) == 1
    first = (parts / "000000.jsonl").stat().st_mtime_ns
    done = detheads(*arguments)
    assert done.code == 0, done.err
    assert "1 of 3 parts are done already" in done.err
    assert (parts / "000000.jsonl").stat().st_mtime_ns == first
    assert written(output) == written(uninterrupted)
    assert not list(output.rglob("*.partial*"))


def test_a_part_without_its_record_or_with_a_cut_file_is_done_again(
    bundle: Path, photos: Path, uninterrupted: Path, detheads
) -> None:
    before = written(uninterrupted)
    (uninterrupted / "parts" / "000000.json").unlink()
    path = uninterrupted / "parts" / "000002.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    done = detheads("deploy", "batch", bundle, photos, "-o", uninterrupted, "--part-size", 3, "--threads", 1)
    assert done.code == 0, done.err
    assert "1 of 3 parts are done already" in done.err
    assert written(uninterrupted) == before


def test_the_plan_of_the_first_start_is_the_only_one(
    bundle: Path, photos: Path, uninterrupted: Path, tmp_path: Path, detheads
) -> None:
    before = written(uninterrupted)

    def refused(*arguments: object) -> str:
        done = detheads("deploy", "batch", *arguments, "-o", uninterrupted)
        assert done.code == 1
        assert written(uninterrupted) == before
        return done.err

    assert "another part_size (3, not 4)" in refused(bundle, photos, "--part-size", 4)
    assert "another score (0.0, not 0.5)" in refused(bundle, photos, "--part-size", 3, "--score", 0.5)
    assert "another sources" in refused(bundle, photos / "day 1", "--part-size", 3)
    other = Path(shutil.copytree(bundle, tmp_path / "other.detheads"))
    with (other / "model.onnx").open("ab") as stream:
        stream.write(b"\x82\x01\x00")  # an empty entry of the model's metadata
    from detheads.foundation.atomic import sha256_of

    manifest = read_manifest(other)
    digest, size = sha256_of(other / "model.onnx"), (other / "model.onnx").stat().st_size
    onnx = manifest.onnx.model_copy(update={"sha256": digest, "bytes": size})
    write_manifest(other, manifest.model_copy(update={"onnx": onnx}), rewritten=["model.onnx"])
    assert "another graph" in refused(other, photos, "--part-size", 3)
    shutil.copy(photos / "day 2" / "bild 3.png", photos / "day 2" / "later.png")
    assert "not those that" in (said := refused(bundle, photos, "--part-size", 3))
    assert "now 9, then 8" in said


def test_all_parts_as_one_coco_file_are_what_a_run_writes(bundle: Path, toy: Toy, tmp_path: Path, detheads) -> None:
    done = detheads(
        *("deploy", "batch", bundle, toy.images, "-o", tmp_path / "batch", "--part-size", 2, "--batch", 1, "--coco"),
        "--json",
    )
    assert done.code == 0, done.err
    assert json.loads(done.out)["results"] == str(tmp_path / "batch" / "detections.json")
    assert detheads("deploy", "run", bundle, toy.images, "-o", tmp_path / "run", "--no-pictures").code == 0

    def of(folder: str) -> tuple[Any, Any]:
        results = json.loads((tmp_path / folder / "detections.json").read_text(encoding="utf-8"))
        return results, json.loads((tmp_path / folder / "images.json").read_text(encoding="utf-8"))

    (results, images), (expected, table) = of("batch"), of("run")
    assert len(expected) > 50
    assert [(each["image_id"], each["category_id"]) for each in results] == [
        (each["image_id"], each["category_id"]) for each in expected
    ]
    np.testing.assert_allclose([e["bbox"] for e in results], [e["bbox"] for e in expected], atol=1e-3)
    assert images == table
    assert len(images["images"]) == len(SIZES)


def test_a_part_that_cannot_be_written_is_given_up_and_begun_again_by_the_next_start(
    bundle: Path, photos: Path, uninterrupted: Path, tmp_path: Path, detheads
) -> None:
    output = tmp_path / "blocked"
    block = output / "parts" / "000001.jsonl" / "in the way"
    arguments = ("deploy", "batch", bundle, photos, "-o", output, "--part-size", 3, "--threads", 1, "--retries", 1)
    assert detheads(*arguments[:-2], "--retries", 0).code == 0
    shutil.rmtree(output / "parts")
    block.mkdir(parents=True)
    done = detheads(*arguments, "--json")
    assert done.code == 1
    assert done.err.count("part 1 is done again") == 1
    assert "1 of 3 parts were given up" in done.err
    assert "summary.json says which" in done.err
    assert json.loads((output / "summary.json").read_text(encoding="utf-8"))["failed"][0]["part"] == 1
    shutil.rmtree(block.parent)
    assert detheads(*arguments).code == 0
    assert written(output) == written(uninterrupted)


def test_a_source_that_is_gone_stops_the_run_and_its_pictures_are_not_called_unreadable(
    bundle: Path, photos: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    from detheads.deploy.batch.part import open_detector, run_part
    from detheads.deploy.batch.plan import Job

    plan = json.loads((uninterrupted / "plan.json").read_text(encoding="utf-8"))
    job = Job(output=str(uninterrupted), threads=1, **plan)
    photos.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is not there on this machine"):
        run_part(open_detector(job), job, 0)


def test_a_listing_is_in_one_order_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for name in ("b/2.jpg", "b/1.PNG", "a.jpg", "c/.hidden.jpg", "c/x.heic", "c/notes.txt", "run/pictures/p.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for name in ("detections.json", "images.json"):
        (folder / "run" / name).touch()
    single = tmp_path / "single.bmp"
    single.touch()
    passed = PassedOver()
    found = list(pictures(require_sources([folder, single]), passed))
    assert found == [(0, "a.jpg"), (0, "b/1.PNG"), (0, "b/2.jpg"), (1, "")]
    assert passed.remarks() == [
        "pictures with other endings are left out (1 .heic); convert them to PNG or JPEG",
        "1 pictures drawn by an earlier run are left out",
    ]


def test_a_listing_reads_no_further_than_it_is_asked(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "picture.jpg").touch()
    listing = pictures([tmp_path], PassedOver())
    assert next(listing) == (0, "0/picture.jpg")
    shutil.rmtree(tmp_path / "2")
    assert list(listing) == [(0, "1/picture.jpg")]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["photos", "photos/day 1"], "which is given, too; leave one of them out"),
        (["photos", "./photos"], "is given twice"),
        (["fotos"], "Did you mean 'photos'?"),
        (["empty"], "hold no pictures"),
        (["photos", "--address", "auto"], "say how many with --workers"),
        (["photos", "--workers", "1", "--gpus-per-worker", "1"], "--backend cpu leaves a GPU idle"),
        (["photos", "--head", "dogs"], "has no head 'dogs'"),
        (["photos", "--backend", "tensorrt"], "has no engine of tensorrt"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(
    options: list[str], sentence: str, bundle: Path, photos: Path, detheads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    (photos.parent / "empty").mkdir()
    done = detheads("deploy", "batch", bundle, *options, "-o", "out")
    assert done.code == 1
    assert sentence in " ".join(done.err.split())
    assert not (photos.parent / "out").exists()
