"""Tiles cover a picture, and what several of them see of one object is one detection."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from detheads.deploy import Detector
from detheads.deploy.tiles import Tiling, detect_tiled
from detheads.foundation.errors import UserError
from detheads.foundation.images import load_image
from tests.export.toy import Toy

SIDE = 100


@pytest.mark.parametrize("size", [(640, 480), (641, 640), (1920, 1080), (4000, 3001), (100, 5000)])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5])
def test_tiles_cover_every_pixel_and_overlap_as_asked(size: tuple[int, int], overlap: float) -> None:
    windows = Tiling(640, overlap).windows(*size)
    for axis, length in enumerate(size):
        spans = sorted({(window[axis], window[axis + 2]) for window in windows})
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        assert {end - start for start, end in spans} == {min(640, length)}
        assert all(end - start >= 640 * overlap - 1 for (_, end), (start, _) in itertools.pairwise(spans))
    assert len(windows) == len(set(windows))


class Squares:
    """A backend that finds the white rectangle of a picture, whole or a part of it, with a score by its area."""

    name = runtime = file = "squares"

    def run(self, images: np.ndarray) -> dict[str, tuple[np.ndarray, ...]]:
        boxes = np.zeros((len(images), 20, 4), np.float32)
        scores = np.zeros((len(images), 20), np.float32)
        for number, image in enumerate(images):
            rows, columns = np.nonzero(image[0] > 250)
            if len(rows):
                boxes[number, 0] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                scores[number, 0] = 0.9 - 0.5 * len(rows) / image[0].size  # parts score better than the whole
        return {"head": (boxes, scores, np.zeros((len(images), 20), np.int32))}


@pytest.fixture(scope="module")
def squares(bundle: Path) -> Detector:
    """Finds white rectangles, in an input of 160 x 160 pixels, in which tiles of that size are as they are."""
    detector = Detector(bundle)
    detector.session = SimpleNamespace(manifest=detector.manifest, runtime="squares", run=Squares().run)  # type: ignore[assignment]
    return detector


def picture(box: tuple[int, int, int, int], size: tuple[int, int] = (480, 480)) -> Image.Image:
    image = Image.new("RGB", size)
    image.paste("white", box)
    return image


@pytest.mark.parametrize(
    "box",
    [
        (10, 10, 40, 40),  # in one tile
        (110, 10, 135, 40),  # whole in one tile, cut in its neighbour, where its part scores better
        (118, 118, 134, 134),  # where four tiles meet
        (60, 20, 250, 60),  # through two tiles and whole in none
        (20, 60, 60, 250),  # the same downwards
        (30, 40, 440, 90),  # through all columns
        (60, 70, 250, 240),  # parts in four tiles and more
    ],
)
def test_an_object_is_one_detection_wherever_tiles_cut_it(squares: Detector, box: tuple[int, int, int, int]) -> None:
    found = detect_tiled(squares, picture(box), 160, 0.25, whole=False, batch=3)
    np.testing.assert_array_equal(found.boxes, [box])
    assert found.names == ("cat",)


def test_the_whole_picture_finds_what_is_larger_than_tiles(squares: Detector) -> None:
    found = detect_tiled(squares, picture((30, 30, 450, 450)), 160, 0.25)
    np.testing.assert_allclose(found.boxes, [(30, 30, 450, 450)], atol=3)


def test_two_objects_side_by_side_stay_two(squares: Detector) -> None:
    image = picture((20, 20, 110, 50))
    image.paste("white", (330, 20, 420, 50))
    found = detect_tiled(squares, image, 160, 0.25, whole=False)
    assert sorted(map(tuple, found.boxes.tolist())) == [(20, 20, 110, 50), (330, 20, 420, 50)]


def test_a_picture_no_larger_than_a_tile_is_run_as_it_is(bundle: Path, toy: Toy) -> None:
    detector = Detector(bundle, threads=1)
    path = toy.images / "bild 4.png"
    plain, tiled = detector(path), detect_tiled(detector, path, 300)
    np.testing.assert_array_equal(tiled.boxes, plain.boxes)
    np.testing.assert_array_equal(tiled.scores, plain.scores)


def test_tiles_of_a_real_graph_are_its_detections_of_each_crop(bundle: Path, toy: Toy) -> None:
    """Without overlap and suppression among the tiles, every kept box is one of a crop."""
    detector = Detector(bundle, threads=1)
    image = load_image(toy.images / "bild 5.png")
    found = detect_tiled(detector, image, 320, 0, whole=False)
    assert len(found) > 20
    assert np.all(np.diff(found.scores) <= 0)
    known = []
    for left, top in itertools.product((0, 320), (0, 160)):
        of_crop = detector(image.crop((left, top, left + 320, min(480, top + 320))))
        known += [
            (*(box + np.array([left, top] * 2)).tolist(), score)
            for box, score in zip(of_crop.boxes, of_crop.scores, strict=True)
        ]
    rows = [(*box, score) for box, score in zip(found.boxes.tolist(), found.scores, strict=True)]
    uncut = [row for row in rows if row in known]
    assert len(uncut) > 0.8 * len(rows)  # the others are hulls of parts


@pytest.mark.parametrize(
    ("tiling", "sentence"),
    [((8, 0.2), "a tile of 8 pixels is too small"), ((640, 0.95), "tiles overlap by 0 to 0.9"), ((640, -1), "overlap")],
)
def test_impossible_tiles_are_refused(tiling: tuple[int, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Tiling(*tiling)


def test_a_picture_of_too_many_tiles_is_refused_before_it_is_run() -> None:
    with pytest.raises(
        UserError, match=r"a picture of 20000x9000 pixels has 274,912 tiles of 32 pixels, more than 10,000"
    ):
        Tiling(32).windows(20000, 9000)
