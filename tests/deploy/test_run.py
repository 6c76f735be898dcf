"""A run as the command line shows it: remarks with counts, speed, thresholds, names of every kind, bounded memory."""

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detheads.deploy import Detector
from detheads.deploy.inputs import InputImage, collect_images
from detheads.deploy.run import run_images
from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest, write_manifest
from detheads.foundation.drawing import palette_color
from tests.export.toy import SIZES, Toy


def changed(bundle: Path, folder: Path, **entries: Any) -> Path:
    """A copy of a bundle with other entries for its head."""
    copy = Path(shutil.copytree(bundle, folder / "changed.detheads"))
    manifest = read_manifest(copy)
    write_manifest(copy, manifest.with_head(manifest.first.model_copy(update=entries)))
    return copy


def test_speed_is_on_the_screen_and_in_json(bundle: Path, toy: Toy, tmp_path: Path, detheads) -> None:
    done = detheads("deploy", "run", bundle, toy.images, "-o", tmp_path / "out", "--json")
    assert f"{len(SIZES)}/{len(SIZES)}" in done.err and "images/s" in done.err
    timing = json.loads(done.out)["timing"]
    whole = 1000 / timing["images_per_second"]
    assert min(timing["decode_ms"], timing["draw_ms"]) > 0
    assert timing["inference_ms"] == pytest.approx(timing["inference_share"] * whole, rel=0.01)
    assert 0 < timing["inference_share"] < 1
    assert timing["seconds"] == pytest.approx(len(SIZES) / timing["images_per_second"], rel=0.01)
    done = detheads("deploy", "run", bundle, toy.images, "-o", tmp_path / "out2", "--no-pictures")
    assert "images/s; milliseconds an image, at the same time: decoding" in done.out


def test_a_score_below_the_graph_s_floor_and_full_tables_are_remarked_on(
    bundle: Path, toy: Toy, tmp_path: Path, detheads
) -> None:
    done = detheads("deploy", "run", bundle, toy.images, "-o", tmp_path / "out", "--score", 0.001, "--json")
    assert "--score 0.001 is below the graph's own floor: nothing below 0.05" in done.err
    full = json.loads(done.out)["full_tables"]
    assert full > 0
    assert f"{full} of {len(SIZES)} pictures filled all 20 rows of the graph" in done.err
    done = detheads("deploy", "run", bundle, toy.images, "-o", tmp_path / "out2")
    assert "floor" not in done.err


def test_each_class_is_drawn_from_its_best_score(bundle: Path, toy: Toy, tmp_path: Path) -> None:
    detector = Detector(changed(bundle, tmp_path, best_scores={"cat": 1.0, "dog": 0.0}))
    assert detector.draw_scores.tolist() == [1.0, 0.0, 0.3]
    inputs = collect_images([toy.images / "bild 5.png"])
    found = detector(toy.images / "bild 5.png")
    assert {"cat", "dog"} <= set(found.names)
    assert "cat" not in found.above(detector.draw_scores).names

    def colours(name: str, **options: Any) -> set[int]:
        result = run_images(detector, inputs, tmp_path / name, **options)
        pixels = np.asarray(Image.open(result.pictures[0])).reshape(-1, 3).astype(int)
        near = [np.abs(pixels - palette_color(label)).max(axis=1) < 12 for label in range(2)]
        return {label for label in range(2) if near[label].sum() > 200}

    assert colours("best") == {1}
    assert 0 in colours("asked", draw_score=0.05)
    assert colours("none", lowest=np.full(3, 0.999, np.float32)) == set()


def test_further_frames_are_one_remark_with_their_count(bundle: Path, tmp_path: Path, detheads) -> None:
    frames = [Image.new("L", (20, 20), grey) for grey in (0, 90, 200)]
    for name in ("a.gif", "b.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "c.tif", save_all=True, append_images=frames[1:2])
    done = detheads("deploy", "run", bundle, tmp_path, "-o", tmp_path / "out")
    assert done.code == 0
    assert "a.gif has 3 pages or frames; the first one is read (3 pictures of this kind)" in done.err


def test_left_out_pictures_leave_no_empty_file(bundle: Path, toy: Toy, tmp_path: Path, detheads) -> None:
    shutil.copy(toy.images / "bild 3.png", tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"bad")
    done = detheads("deploy", "run", bundle, tmp_path, "-o", tmp_path / "out", "--skip-bad", "--json")
    assert [Path(path).name for path in json.loads(done.out)["pictures"]] == ["good.jpg"]
    assert [path.name for path in (tmp_path / "out" / "pictures").iterdir()] == ["good.jpg"]
    assert "left out 1 pictures that cannot be read" in done.err


@pytest.mark.parametrize(
    "name", [b"caf\xe9.png", "ä".encode() * 125 + b".png", b"[bold] [red].png", b"a\x1b[31m\n.png"]
)
def test_pictures_of_any_name_are_run_to_the_end(name: bytes, bundle: Path, toy: Toy, tmp_path: Path, detheads) -> None:
    path = tmp_path / os.fsdecode(name)
    shutil.copy(toy.images / "bild 3.png", path)
    done = detheads("deploy", "run", bundle, path, "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    (picture,) = json.loads(done.out)["pictures"]
    assert Path(picture).is_file()
    (entry,) = atomic.read_json(tmp_path / "out" / "images.json")["images"]
    assert os.fsencode(entry["file_name"]) == name
    assert "\x1b[31m" not in done.out + done.err


def test_an_ascii_terminal_and_a_system_without_fcntl_run_too(bundle: Path, toy: Toy, tmp_path: Path) -> None:
    copy = changed(bundle, tmp_path, name="größtes 熊")
    script = "import sys; sys.modules['fcntl'] = None; from detheads.cli.main import main; main()"
    shutil.copy(toy.images / "bild 3.png", tmp_path / "熊 ö.png")
    for command in (["info", copy], ["run", copy, tmp_path / "熊 ö.png", "-o", tmp_path / "熊"]):
        done = subprocess.run(
            [sys.executable, "-c", script, "deploy", *command],
            env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        done.stdout.decode("ascii")


def test_info_tells_what_a_bundle_is_and_proved(bundle: Path, tmp_path: Path, detheads) -> None:
    copy = changed(bundle, tmp_path, best_scores={"dog": 0.37})
    done = detheads("deploy", "info", copy)
    assert done.code == 0
    shown = " ".join(done.out.split())
    for part in (
        "bundle: toy, verified",
        "proof: holds: mAP",
        "160x160 pixels",
        "20 an image at most",
        "17 dog 0.37",
        "3 cat not measured",
    ):
        assert part in shown
    answer = json.loads(detheads("deploy", "info", copy, "--json").out)
    assert answer["state"] == "verified"
    assert answer["heads"][0]["verification"]["images"] == len(SIZES)
    (copy / "model.onnx").write_bytes(b"")
    assert detheads("deploy", "info", copy).code == 1


class Many:
    """A backend that fills its table of rows."""

    name = "many"

    def run(self, images: np.ndarray) -> dict[str, tuple[np.ndarray, ...]]:
        boxes = np.tile(np.array([[20, 20, 60, 60]], np.float32), (len(images), 100, 1))
        scores = np.full((len(images), 100), 0.5, np.float32)
        return {"head": (boxes, scores, np.zeros((len(images), 100), np.int32))}


def test_memory_does_not_grow_with_the_pictures(bundle: Path, toy: Toy, tmp_path: Path) -> None:
    detector = Detector(bundle)
    detector.session = SimpleNamespace(manifest=detector.manifest, runtime="many", run=Many().run)  # type: ignore[assignment]
    path = toy.images / "bild 6.png"

    def peak(count: int) -> int:
        inputs = [InputImage(number, f"{number}.png", path) for number in range(1, count + 1)]
        tracemalloc.start()
        run_images(detector, inputs, tmp_path / str(count), pictures=False)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(2)
    assert (peak(120) - peak(20)) / 100 < 2000  # bytes; the detections of a picture are 45,000


def test_a_batch_keeps_large_pictures_only_while_they_are_drawn(bundle: Path, tmp_path: Path) -> None:
    Image.new("RGB", (300, 200)).save(tmp_path / "large.png")
    inputs = [InputImage(number, f"{number}.png", tmp_path / "large.png") for number in range(8)]
    alive: list[int] = []
    loaded: list[weakref.ref[Image.Image]] = []
    detector = Detector(bundle)
    prepare, run = detector.prepare, detector.run

    def spy_on_preparing(image: Image.Image) -> Any:
        loaded.append(weakref.ref(image))
        return prepare(image)

    def spy(prepared: Any) -> Any:
        alive.append(sum(image() is not None for image in loaded))
        return run(prepared)

    detector.prepare = spy_on_preparing  # type: ignore[method-assign]

    detector.run = spy  # type: ignore[method-assign]
    run_images(detector, inputs, tmp_path / "out", batch=8, pictures=False)
    assert alive == [0]
    run_images(detector, inputs, tmp_path / "drawn", batch=8)
    assert alive[1] == 8


def test_results_come_in_every_form_and_only_of_the_classes_asked_for(
    bundle: Path, toy: Toy, tmp_path: Path, detheads
) -> None:
    command = ["deploy", "run", bundle, toy.images, "--no-pictures", "--json"]
    every = json.loads(detheads(*command, "-o", tmp_path / "every").out)
    options = ["--classes", "cat,dog", "--except", "dog", "--format", "jsonl", "--format", "csv"]
    some = json.loads(detheads(*command, "-o", tmp_path / "some", *options).out)
    assert {path.name for path in (tmp_path / "some").iterdir()} == {
        "detections.jsonl",
        "detections.csv",
        "images.json",
    }
    assert every["results"] == {"coco": str(tmp_path / "every" / "detections.json")}
    cats = [entry for entry in atomic.read_json(tmp_path / "every" / "detections.json") if entry["category_id"] == 3]
    assert 0 < some["detections"] == len(cats) < every["detections"]
    lines = [json.loads(line) for line in (tmp_path / "some" / "detections.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == list(range(1, len(SIZES) + 1))
    found = [entry for line in lines for entry in line["detections"]]
    assert [entry["score"] for entry in found] == [entry["score"] for entry in cats]
    assert len((tmp_path / "some" / "detections.csv").read_text().splitlines()) == 1 + len(cats)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--classes", "catt"],
            "--classes: the bundle has no class 'catt'; it has cat, dog, größte Eule. Did you mean",
        ),
        (["--format", "yolo"], "there is no format 'yolo'; there are coco, jsonl, csv"),
        (["--tile", "8"], "a tile of 8 pixels is too small"),
        (["--overlap", "0.5"], "--overlap does nothing for pictures that are not cut with --tile; leave it out."),
        (["--no-tile-whole"], "--tile-whole does nothing for pictures that are not cut with --tile; leave it out."),
        (["--score", "much"], "--score takes numbers from 0 to 1"),
    ],
)
def test_options_that_are_not_meant_are_one_sentence(
    options: list[str], sentence: str, bundle: Path, toy: Toy, tmp_path: Path, detheads
) -> None:
    done = detheads("deploy", "run", bundle, toy.images, "-o", tmp_path / "out", *options)
    assert done.code == 1
    assert sentence in done.err
    assert list(tmp_path.iterdir()) == []


def test_tiles_are_run_from_the_command_line(bundle: Path, toy: Toy, tmp_path: Path, detheads) -> None:
    command = ["deploy", "run", bundle, toy.images / "bild 5.png", "--json"]
    plain = json.loads(detheads(*command, "-o", tmp_path / "plain").out)
    options = ["--tile", 160, "--overlap", 0.3, "--no-tile-whole", "--batch", 4]
    tiled = json.loads(detheads(*command, "-o", tmp_path / "tiled", *options).out)
    assert tiled["detections"] > plain["detections"]
    assert Path(tiled["pictures"][0]).is_file()
