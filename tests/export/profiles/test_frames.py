"""A picture reaches the graph as its host would show it, and boxes find their way back."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from detheads.export.profiles import frames, live_frames
from detheads.export.profiles.frames import Framed

SIZES = ((640, 480), (333, 500), (64, 64), (97, 301), (1000, 40), (1, 7), (96, 96))
Frame = Callable[[Image.Image, int, int], Framed]


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(1, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("name", ["square_region", "black_letterbox"])
def test_two_ways_of_writing_a_frame_give_the_same_picture(name: str, size: tuple[int, int]) -> None:
    image = picture(*size)
    (one, back), (other, other_back) = (getattr(module, name)(image, 96, 96) for module in (frames, live_frames))
    assert one.shape == other.shape == (96, 96, 3)
    assert np.abs(one.astype(int) - other.astype(int)).max() <= 1  # a half, rounded up and down
    assert (one != other).mean() < 0.001
    boxes = np.array([[10.0, 20, 70, 90]])
    np.testing.assert_allclose(back.to_original(boxes), other_back.to_original(boxes), rtol=1e-12)


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_resizing_is_opencvs(size: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV, which Frigate resizes with")
    array = np.asarray(picture(*size))
    expected = cv2.resize(array, (96, 80), interpolation=cv2.INTER_LINEAR)
    assert np.abs(frames.bilinear(array, 96, 80).astype(int) - expected.astype(int)).max() <= 1


def marked(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    """A grey picture with a white box, xyxy."""
    array = np.full((height, width, 3), 60, np.uint8)
    array[box[1] : box[3], box[0] : box[2]] = 255
    return Image.fromarray(array)


@pytest.mark.parametrize("frame", [frames.square_region, frames.black_letterbox])
@pytest.mark.parametrize("size", [(640, 480), (300, 500), (333, 217)], ids="{0[0]}x{0[1]}".format)
def test_what_is_seen_in_the_input_is_found_in_the_picture(frame: Frame, size: tuple[int, int]) -> None:
    box = (size[0] // 4, size[1] // 3, size[0] // 4 + 90, size[1] // 3 + 60)
    array, back = frame(marked(*size, box), 192, 192)
    rows, columns = np.nonzero(array[..., 0] > 157)  # halfway
    seen = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], float)
    np.testing.assert_allclose(back.to_original(seen)[0], box, atol=max(size) / 192)


def test_frigate_sees_black_below_and_right_of_a_frame_and_nothing_is_stretched() -> None:
    array, _ = frames.square_region(picture(640, 480), 96, 96)
    assert array[:71].min() > 0
    assert not array[73:].any()
    square, _ = frames.square_region(picture(640, 640), 96, 96)
    assert square.min() > 0


def test_nvinfer_pads_both_sides_with_black_and_cuts_sizes() -> None:
    array, _ = frames.black_letterbox(picture(640, 479), 96, 96)  # 71.85 rows high: 71
    used = np.flatnonzero(array.any(axis=(1, 2)))
    assert (used.min(), len(used)) == (12, 71)
    assert array[12 : 12 + 71].min() > 0
