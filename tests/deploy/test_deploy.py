"""The runtime on a real bundle: no torch in the process, original pixels, the dataset's own ids, bad pictures."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detheads.deploy import BundleSession, Detector
from detheads.deploy.inputs import collect_images
from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest, write_manifest
from detheads.foundation.errors import UserError
from detheads.foundation.images import load_image
from tests.export.toy import CATEGORIES, SIZES, Toy, live_detector

WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = sys.modules["timm"] = sys.modules["torchvision"] = None  # importing them fails
from detheads.cli.main import run
code = run(sys.argv[1:])
loaded = [name for name in sys.modules if name.split(".")[0] in {"torch", "timm", "torchvision", "onnx", "pycocotools"}]
assert [name for name in loaded if sys.modules[name] is not None] == [], loaded
sys.exit(code)
"""


RUNTIME_ALONE = """
import sys
from pathlib import Path
sys.modules["torch"] = sys.modules["timm"] = sys.modules["torchvision"] = None
from detheads.deploy.detector import Detector
from detheads.deploy.inputs import collect_images
from detheads.deploy.run import run_images
bundle, data, out = map(Path, sys.argv[1:])
result = run_images(Detector(bundle), collect_images([data], split="val"), out)
assert result.detections > 20
print(*sorted({name.split(".")[1] for name in sys.modules if name.startswith("detheads.")}))
"""


@pytest.fixture
def pictures(toy: Toy, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy.images, tmp_path / "pictures"))


def test_runs_without_torch_in_the_process(bundle: Path, toy: Toy, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-c",
        WITHOUT_TORCH,
        "deploy",
        "run",
        str(bundle),
        str(toy.images),
        "-o",
        str(out),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["images"] == len(SIZES)
    assert answer["detections"] == len(atomic.read_json(out / "detections.json")) > 20
    assert answer["bundle_state"] == "verified"
    assert answer["runtime"].endswith("CPUExecutionProvider")


def test_the_runtime_needs_no_room_but_the_ground_and_the_readers_of_data(
    bundle: Path, toy: Toy, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", RUNTIME_ALONE, str(bundle), str(toy.data), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["data", "deploy", "foundation"]


def test_results_are_the_dataset_s_ids_and_original_pixels(bundle: Path, toy: Toy, tmp_path: Path, detheads) -> None:
    out = tmp_path / "out"
    done = detheads("deploy", "run", bundle, toy.data, "--split", "val", "-o", out, "--batch", 3, "--json")
    assert done.code == 0, done.err
    entries = atomic.read_json(out / "detections.json")
    truth = atomic.read_json(toy.annotations)
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    assert {entry["image_id"] for entry in entries} <= sizes.keys()
    assert {entry["category_id"] for entry in entries} <= {category.id for category in CATEGORIES}
    for entry in entries:
        x, y, w, h = entry["bbox"]
        width, height = sizes[entry["image_id"]]
        assert 0 <= x <= x + w <= width + 1e-6
        assert 0 <= y <= y + h <= height + 1e-6
    live = live_detector(toy.run)
    for image in truth["images"]:
        found = [entry for entry in entries if entry["image_id"] == image["id"]]
        wanted = live.detect(load_image(toy.images / image["file_name"]))
        assert [entry["category_id"] for entry in found] == [CATEGORIES[label].id for label in wanted.labels]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (entry["bbox"] for entry in found)]
        np.testing.assert_allclose(np.reshape(corners, (-1, 4)), wanted.boxes, atol=0.02)
    with Image.open(json.loads(done.out)["pictures"][0]) as picture:
        assert picture.size == SIZES[0]


def test_batches_equal_single_pictures(bundle: Path, toy: Toy) -> None:
    detector = Detector(bundle, threads=1)
    images = [load_image(path) for path in sorted(toy.images.iterdir())]
    together = detector.detect(images)
    for image, batched in zip(images, together, strict=True):
        (single,) = detector.detect([image])
        np.testing.assert_allclose(batched.boxes, single.boxes, atol=1e-3)
        np.testing.assert_array_equal(batched.labels, single.labels)
    assert detector.detect([]) == []


def test_ids_count_from_one_or_come_from_a_file(toy: Toy, tmp_path: Path) -> None:
    assert [image.id for image in collect_images([toy.images])] == list(range(1, len(SIZES) + 1))
    from_file = collect_images([toy.images], images_json=toy.annotations)
    assert [image.id for image in from_file] == [100 + 7 * number for number in range(len(SIZES))]
    one = collect_images([toy.images / "bild 3.png"], images_json=toy.annotations)
    assert [(image.id, image.name) for image in one] == [(121, "bild 3.png")]
    stranger = tmp_path / "stranger.png"
    Image.new("RGB", (9, 9)).save(stranger)
    with pytest.raises(UserError, match="is not among the images"):
        collect_images([stranger], images_json=toy.annotations)
    with pytest.raises(UserError, match="does not exist"):
        collect_images([tmp_path / "nothing"])
    another = tmp_path / "another" / "bild 3.png"
    another.parent.mkdir()
    shutil.copy(toy.images / "bild 3.png", another)
    with pytest.raises(UserError, match="same image id"):
        collect_images([toy.images, another], images_json=toy.annotations)


def test_bad_picture_stops_before_anything_is_written(bundle: Path, pictures: Path, tmp_path: Path, detheads) -> None:
    (pictures / "a.jpg").write_bytes(b"\xff\xd8 not a picture")
    done = detheads("deploy", "run", bundle, pictures, "-o", tmp_path / "out")
    assert done.code == 1
    assert "a.jpg" in done.err
    assert done.err.count("error:") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures"]


def test_bad_picture_is_skipped_on_request_and_named(bundle: Path, pictures: Path, tmp_path: Path, detheads) -> None:
    (pictures / "zz.jpg").write_bytes(b"\xff\xd8 not a picture")
    done = detheads("deploy", "run", bundle, pictures, "-o", tmp_path / "out", "--skip-bad", "--json")
    assert done.code == 0
    answer = json.loads(done.out)
    assert answer["images"] == len(SIZES)
    assert len(answer["skipped"]) == 1
    assert "zz.jpg" in answer["skipped"][0]
    assert atomic.read_json(tmp_path / "out" / "images.json")["skipped"] == answer["skipped"]


def test_only_bad_pictures_are_an_error_even_then(bundle: Path, tmp_path: Path, detheads) -> None:
    (tmp_path / "zz.jpg").write_bytes(b"no")
    done = detheads("deploy", "run", bundle, tmp_path / "zz.jpg", "-o", tmp_path / "out", "--skip-bad")
    assert done.code == 1
    assert "none of the 1 pictures" in done.err
    assert not (tmp_path / "out").exists()


def test_pictures_of_one_name_do_not_overwrite_each_other(bundle: Path, toy: Toy, tmp_path: Path, detheads) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(toy.images / "bild 2.png", tmp_path / folder / "same.png")
    done = detheads("deploy", "run", bundle, tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out", "--json")
    assert done.code == 0
    paths = json.loads(done.out)["pictures"]
    assert len(set(paths)) == 2
    assert all(Path(path).is_file() for path in paths)


def test_used_folder_is_left_alone(bundle: Path, toy: Toy, tmp_path: Path, detheads) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    done = detheads("deploy", "run", bundle, toy.images, "-o", tmp_path)
    assert done.code == 1
    assert "not empty" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_odd_files_are_handled(bundle: Path, tmp_path: Path, detheads) -> None:
    folder = tmp_path / "odd ö"
    folder.mkdir()
    Image.new("L", (40, 30), 90).save(folder / "grey.png")
    Image.new("CMYK", (40, 30)).save(folder / "cmyk.jpg")
    Image.new("RGBA", (1, 1)).save(folder / "dot.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(folder / "turned.jpg", exif=exif)
    done = detheads("deploy", "run", bundle, folder, "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    table = {image["file_name"]: image for image in atomic.read_json(tmp_path / "out" / "images.json")["images"]}
    assert (table["turned.jpg"]["width"], table["turned.jpg"]["height"]) == (30, 40)
    assert len(table) == 4


def test_absent_provider_is_refused(bundle: Path) -> None:
    with pytest.raises(UserError, match="no DmlExecutionProvider here; it offers"):
        Detector(bundle, backend="DmlExecutionProvider")


def test_provider_that_falls_back_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    offered = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    with pytest.raises(UserError):
        Detector(bundle, backend="CUDAExecutionProvider")


@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 3, 160, 159), np.uint8), ((3, 160, 160), np.uint8), ((1, 3, 160, 160), np.float32)]
)
def test_wrong_arrays_are_refused(bundle: Path, shape: tuple[int, ...], dtype: type) -> None:
    with pytest.raises(ValueError, match="the graph takes uint8"):
        BundleSession(bundle).run(np.zeros(shape, dtype))


def test_unverified_bundle_says_so(bundle: Path, toy: Toy, tmp_path: Path, detheads) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy.detheads"))
    manifest = read_manifest(copy)
    write_manifest(copy, manifest.with_head(manifest.first.model_copy(update={"verification": None})))
    assert read_manifest(copy).state == "unverified"
    done = detheads("deploy", "run", copy, toy.images / "bild 2.png", "-o", tmp_path / "out")
    assert done.code == 0
    assert "unverified" in done.err


def test_folder_that_is_no_bundle(tmp_path: Path, toy: Toy, detheads) -> None:
    done = detheads("deploy", "run", tmp_path, toy.images, "-o", tmp_path / "out")
    assert done.code == 1
    assert "is not a bundle" in done.err


@pytest.mark.parametrize("damage", ["{", '{"schema_version": 1}', "[]"])
def test_damaged_manifest_is_one_sentence(bundle: Path, tmp_path: Path, damage: str) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy.detheads"))
    (copy / "bundle.json").write_text(damage)
    with pytest.raises(UserError, match=r"bundle\.json is not"):
        Detector(copy)
