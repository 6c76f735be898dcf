"""The detector from Python: every form of a picture gives what its file gives, or one sentence."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from detheads.deploy import Detections, Detector
from detheads.deploy.pictures import as_rgb
from detheads.evaluation.coco import evaluate
from detheads.foundation.errors import UserError
from detheads.foundation.images import load_image
from tests.export.toy import AP_TOLERANCE, CATEGORIES, Toy

TURNED = 6
"""EXIF orientation of a picture that is to be turned by a quarter."""


@pytest.fixture(scope="module")
def detector(bundle: Path) -> Detector:
    return Detector(str(bundle), threads=1)


@pytest.fixture(scope="module")
def image(toy: Toy) -> Image.Image:
    return load_image(toy.images / "bild 4.png")


@pytest.fixture(scope="module")
def expected(detector: Detector, toy: Toy) -> Detections:
    return detector(toy.images / "bild 4.png")


def assert_equal(found: Detections, expected: Detections) -> None:
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert found.names == expected.names


FORMS: dict[str, Callable[[Image.Image], object]] = {
    "PIL": lambda image: image,
    "RGB array": np.asarray,
    "with alpha": lambda image: np.asarray(image.convert("RGBA")),
    "PIL with alpha": lambda image: image.convert("RGBA"),
    "not contiguous": lambda image: np.asarray(image)[:, ::-1][:, ::-1],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_in_memory_gives_what_its_file_gives(
    form: str, detector: Detector, image: Image.Image, expected: Detections
) -> None:
    assert len(expected) > 5
    assert_equal(detector(FORMS[form](image)), expected)


def test_paths_strings_and_bytes_are_pictures(detector: Detector, toy: Toy, expected: Detections) -> None:
    path = toy.images / "bild 4.png"
    assert_equal(detector(str(path)), expected)
    assert_equal(detector(path.read_bytes()), expected)


def test_bgr_is_what_the_caller_says_it_is(detector: Detector, image: Image.Image, expected: Detections) -> None:
    bgr = np.asarray(image)[:, :, ::-1]
    assert_equal(detector(bgr, channels="BGR"), expected)
    assert not np.array_equal(detector(bgr).scores, expected.scores)
    with pytest.raises(UserError, match="channels are 'RGB' or 'BGR', not 'GBR'"):
        detector(bgr, channels="GBR")  # type: ignore[arg-type]


def test_names_belong_to_the_labels(detector: Detector, expected: Detections) -> None:
    assert expected.names == tuple(CATEGORIES[label].name for label in expected.labels)
    above = expected.above(float(np.median(expected.scores)))
    assert above.names == expected.names[: len(above)]
    by_class = expected.above(np.array([2.0, 0.0, 2.0]))  # scores end at 1, so one class is left
    assert set(by_class.names) == {CATEGORIES[1].name}


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "CMYK", "HSV", "YCbCr", "LAB", "I;16", "RGBX"])
def test_colours_of_every_mode_are_those_of_rgb(mode: str) -> None:
    red, green = Image.new("RGB", (8, 6), (255, 255, 255)), (200, 40, 30)
    grey = mode in {"L", "LA", "1", "I;16"}
    red.paste((255, 255, 255) if grey else green, (0, 0, 4, 6))
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(red, *profiles, outputMode="LAB")
    elif mode == "I;16":
        image = Image.fromarray(np.asarray(red.convert("L")).astype(np.uint16) * 257)
    else:
        image = red.quantize(4) if mode == "P" else red.convert(mode)
    assert image.mode == mode
    assert as_rgb(image).mode == "RGB"
    np.testing.assert_allclose(np.asarray(as_rgb(image)).astype(int), np.asarray(red), atol=2)


def test_an_image_that_exif_turns_is_turned_once(tmp_path: Path, toy: Toy, detector: Detector) -> None:
    exif = Image.Exif()
    exif[0x0112] = TURNED
    with Image.open(toy.images / "bild 4.png") as picture:
        picture.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        upright = ImageOps.exif_transpose(image)
        assert upright.size == image.size[::-1]
        expected = detector(np.asarray(upright))
        assert_equal(detector(image), expected)
        assert_equal(detector(upright), expected)
        assert_equal(detector(tmp_path / "turned.png"), expected)
        assert_equal(detector(load_image(tmp_path / "turned.png")), expected)


@pytest.mark.parametrize(
    ("picture", "sentence"),
    [
        (np.zeros((8, 9, 3), np.float32), "an array of float32 is no picture, since its range cannot be known"),
        (Image.new("F", (9, 8)), "the F image cannot be used: its pixels are decimal numbers"),
        (np.zeros((8, 9), np.uint16), "an array of uint16 is no picture"),
        (np.zeros((3, 8, 9), np.uint8), r"shape \[3, 8, 9\] .* array\.transpose\(1, 2, 0\)"),
        (np.zeros((8, 9, 2), np.uint8), r"shape \[8, 9, 2\] is no picture"),
        (np.zeros((0, 9, 3), np.uint8), r"shape \[0, 9, 3\] is no picture"),
        (np.zeros(9, np.uint8), r"shape \[9\] is no picture"),
        ([{}], "a picture is a PIL image, a numpy array, a path or the bytes of a file, not dict"),
        (7, "give a picture or a list of pictures, not int"),
        (b"no picture", "not an image"),
        ("nothing.png", r"nothing\.png does not exist"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_sentence(detector: Detector, picture: object, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        detector(picture)  # type: ignore[call-overload]


def test_a_list_is_run_in_batches_and_decoded_as_it_goes(
    detector: Detector, image: Image.Image, expected: Detections, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    run = detector.session.run
    given = 0

    def spy(images: np.ndarray) -> dict[str, tuple[np.ndarray, ...]]:
        sizes.append(len(images))
        assert given <= sum(sizes)
        return run(images)

    def frames() -> Iterator[Image.Image]:
        nonlocal given
        for _ in range(7):
            given += 1
            yield image

    monkeypatch.setattr(detector.session, "run", spy)
    found = detector(frames(), batch=3)
    assert sizes == [3, 3, 1]
    for each in found:
        np.testing.assert_allclose(each.boxes, expected.boxes, atol=1e-3)
    assert detector([]) == []
    sizes.clear()
    given = 0
    detector([image] * 20)
    assert sizes == [8, 8, 4]
    stack = np.stack([np.asarray(image)] * 2)
    assert len(detector(stack)) == 2


def test_boxes_without_area_are_left_out(detector: Detector) -> None:
    found = detector(Image.new("RGB", (1500, 3), (90, 140, 30)))
    width, height = (found.boxes[:, 2:] - found.boxes[:, :2]).T
    assert (width > 0).all()
    assert (height > 0).all()
    assert found.full  # the graph gave all its rows, most of them in the padding
    assert len(found) < detector.manifest.thresholds.max_detections


IN_ANOTHER_PROCESS = """
import pickle, sys
detector = pickle.load(open(sys.argv[1], "rb"))
print(detector(sys.argv[2]).scores.tolist())
"""


def test_a_detector_travels_to_another_process(
    detector: Detector, toy: Toy, tmp_path: Path, expected: Detections
) -> None:
    (tmp_path / "detector").write_bytes(pickle.dumps(detector))
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, tmp_path / "detector", toy.images / "bild 4.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == expected.scores.tolist()


def test_a_pickle_of_another_bundle_is_refused(detector: Detector) -> None:
    packed = pickle.dumps(detector)
    altered = packed.replace(detector.manifest.onnx.sha256.encode(), b"0" * 64)
    with pytest.raises(UserError, match="is another bundle than the detector was made from"):
        pickle.loads(altered)


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_threads_may_share_a_detector(backend: str, bundle: Path, toy: Toy) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    shared = Detector(bundle, backend=backend, threads=1)
    pictures = sorted(toy.images.iterdir())
    alone = [shared(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(shared, pictures * 4), alone * 4, strict=True):
            assert_equal(found, expected)


def test_it_finds_what_the_proof_measured(detector: Detector, toy: Toy) -> None:
    truth = json.loads(toy.annotations.read_text("utf-8"))
    ids = [entry.id for entry in detector.classes]
    results = [
        entry
        for image in truth["images"]
        for entry in detector(toy.images / image["file_name"]).to_coco(image["id"], ids)
    ]
    proof = detector.manifest.verification
    assert proof is not None
    assert 0 < proof.artefacts[0].map < 1  # type: ignore[operator]
    assert pytest.approx(proof.artefacts[0].map, abs=AP_TOLERANCE) == evaluate(truth, results).AP


@pytest.mark.parametrize("threads", [0, 5000])
def test_threads_out_of_proportion_are_refused(bundle: Path, threads: int) -> None:
    with pytest.raises(UserError, match=f"{threads} threads are not possible on this machine of "):
        Detector(bundle, threads=threads)
