"""The monitor warns with the right cause when pictures or detections drift, and is silent when they do not."""

import threading

import numpy as np
import pytest
from PIL import Image, ImageFilter

from detheads.deploy.detector import Detections
from detheads.deploy.monitor.monitor import EVERY, OF_ONE_VIEW, WINDOW, Monitor
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import BundledHead
from tests.deploy.monitor.world import detections, pictures, prepare, proven_head, unproven_head

HELD_OUT = 5000
"""Seeds of pictures that the reference has not."""


@pytest.fixture(scope="module")
def head() -> BundledHead:
    return proven_head()


def watched(head: BundledHead, images: list[Image.Image], **found: float) -> Monitor:
    monitor = Monitor("toy", [head])
    for seed, image in enumerate(images, start=HELD_OUT):
        monitor.see(prepare(image), detections(seed, **found))
    return monitor


def blurred(array: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(array).filter(ImageFilter.GaussianBlur(1)))


@pytest.mark.parametrize("seed", range(1, 7))
@pytest.mark.parametrize("count", [30, 100])
def test_other_pictures_of_the_same_kind_raise_no_warning(head: BundledHead, seed: int, count: int) -> None:
    assert watched(head, pictures(count, seed)).verdict() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda array: array[:, :, ::-1], "red and blue are swapped"),
        (lambda array: np.repeat(array.mean(2, keepdims=True), 3, axis=2).astype(np.uint8), "the pictures are grey"),
        (lambda array: array // 255, "the pictures are black"),
        (lambda array: array // 3, "the pictures are darker"),
        (lambda array: (array * 1.6).clip(0, 255).astype(np.uint8), "the pictures are brighter"),
        (lambda array: (array / 3 + array.mean() * 2 / 3).astype(np.uint8), "the pictures are flatter"),
        (blurred, "the pictures are blurred"),
    ],
    ids=["BGR", "grey", "scaled to 0..1", "dark", "bright", "haze", "blur"],
)
def test_a_change_of_the_pictures_is_told_with_its_cause_and_nothing_else(
    head: BundledHead, change: object, said: str
) -> None:
    told = watched(head, pictures(100, 1, change)).verdict()  # type: ignore[arg-type]
    assert [sentence.startswith(said) for sentence in told] == [True]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"score": 0.3}, "scores are lower"),
        ({"side": 5.0}, "boxes are smaller"),
        ({"side": 45.0}, "boxes are larger"),
        ({"objects": 12.0}, "more objects are found"),
    ],
)
def test_a_change_of_what_is_found_in_pictures_that_look_alike_is_told(
    head: BundledHead, found: dict[str, float], said: str
) -> None:
    told = watched(head, pictures(100, 1), **found).verdict()
    assert any(sentence.startswith(said) and "look as they did" in sentence for sentence in told)


def test_pictures_in_which_nothing_is_found_are_told(head: BundledHead) -> None:
    nothing = Detections(np.zeros((0, 4)), np.zeros(0, np.float32), np.zeros(0, np.int32))
    monitor = Monitor("toy", [head])
    for image in pictures(100, 1):
        monitor.see(prepare(image), nothing)
    assert [sentence.partition(" (")[0] for sentence in monitor.verdict()] == [
        "scores are lower",
        "fewer objects are found",
    ]


def test_a_camera_that_looks_at_one_ordinary_thing_raises_no_warning(head: BundledHead) -> None:
    """Its frames have one brightness and one warmth, far from the distribution and yet nothing unusual."""
    random = np.random.default_rng(0)
    view = np.asarray(pictures(1, 3)[0]).astype(float)
    frames = [
        Image.fromarray((view + random.normal(0, 3, view.shape)).clip(0, 255).astype(np.uint8)) for _ in range(300)
    ]
    monitor = watched(head, frames)
    assert monitor.to_dict() | {"heads": {}} == {
        "pictures": 300,
        "measured": 300 // OF_ONE_VIEW,
        "views": 1,
        "heads": {},
        "warnings": [],
    }


def test_a_warning_comes_while_pictures_come_once_and_again_when_its_cause_has_been_gone(head: BundledHead) -> None:
    told: list[str] = []
    monitor = Monitor("toy", [head], on_warning=told.append)
    dark = pictures(EVERY, 1, lambda array: array // 3)
    counts = []
    for images in (dark, dark, pictures(WINDOW, 2), dark * (WINDOW // EVERY)):
        for seed, image in enumerate(images):
            monitor.see(prepare(image), detections(HELD_OUT + seed))
        counts.append(len(told))
    assert counts == [1, 1, 1, 2]
    assert all("darker" in sentence for sentence in told)


def test_warnings_name_the_head_where_there_are_several() -> None:
    heads = [proven_head(60, "animals"), proven_head(60, "plants")]
    monitor = Monitor("toy", heads)
    for seed, image in enumerate(pictures(60, 1)):
        one = detections(HELD_OUT + seed)
        other = detections(HELD_OUT + seed, side=4)
        boxes, scores = np.vstack([one.boxes, other.boxes]), np.concatenate([one.scores, other.scores])
        monitor.see(prepare(image), Detections(boxes, scores, np.concatenate([one.labels, other.labels + 2])))
    assert [sentence.partition(" are")[0] for sentence in monitor.verdict()] == ["head plants: boxes"]


def test_threads_may_share_a_monitor(head: BundledHead) -> None:
    monitor = Monitor("toy", [head])
    shown = [(prepare(image), detections(seed)) for seed, image in enumerate(pictures(40, 1))]

    def work() -> None:
        for prepared, found in shown:
            monitor.see(prepared, found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert monitor.to_dict()["pictures"] == 160
    assert monitor.verdict() == []


def test_a_head_that_was_never_proven_cannot_be_monitored() -> None:
    with pytest.raises(UserError, match="toy says nothing of the pictures it was proven on"):
        Monitor("toy", [unproven_head()])
