"""The letterbox, and images of every kind."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detheads.foundation import images
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import PAD_VALUE, Letterbox, flip_boxes, letterbox_image, nearest_sides, sides
from detheads.foundation.images import load_image

SIDE = st.integers(1, 5000)
SHARE = st.floats(0, 1)


@given(SIDE, SIDE, SIDE, SIDE, st.lists(st.tuples(SHARE, SHARE, SHARE, SHARE), max_size=4))
def test_boxes_come_back_exactly(
    width: int, height: int, input_width: int, input_height: int, shares: list[tuple[float, ...]]
) -> None:
    letterbox = Letterbox.fit(width, height, input_width, input_height)
    corners = np.array(shares, dtype=np.float64).reshape(-1, 2, 2) * (width, height)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    mapped = letterbox.to_input(boxes)
    assert (mapped >= -1e-6).all() and (mapped <= np.tile([input_width, input_height], 2) + 1e-6).all()
    np.testing.assert_allclose(letterbox.to_original(mapped), boxes, rtol=1e-9, atol=1e-7 * max(width, height))


@given(SIDE, SIDE, SIDE, SIDE)
def test_the_picture_fills_one_side_and_is_centred(
    width: int, height: int, input_width: int, input_height: int
) -> None:
    letterbox = Letterbox.fit(width, height, input_width, input_height)
    assert letterbox.resized_width == input_width or letterbox.resized_height == input_height
    spare = input_width - letterbox.resized_width, input_height - letterbox.resized_height
    assert 0 <= spare[0] - 2 * letterbox.pad_left <= 1
    assert 0 <= spare[1] - 2 * letterbox.pad_top <= 1
    whole = letterbox.to_input(np.array([[0.0, 0.0, width, height]]))[0]
    edges = [letterbox.pad_left, letterbox.pad_top]
    edges += [edges[0] + letterbox.resized_width, edges[1] + letterbox.resized_height]
    np.testing.assert_allclose(whole, edges)


def test_pixels_lie_where_the_boxes_say() -> None:
    image = Image.new("RGB", (100, 50), "black")
    image.paste("white", (20, 10, 60, 40))
    pixels, letterbox = letterbox_image(image, 200, 200)
    left, top, right, bottom = (int(edge) for edge in letterbox.to_input(np.array([[20.0, 10.0, 60.0, 40.0]]))[0])
    assert (left, top, right, bottom) == (40, 70, 120, 130)
    assert (pixels[top + 2 : bottom - 2, left + 2 : right - 2] == 255).all()
    assert (pixels[:50] == PAD_VALUE).all() and (pixels[150:] == PAD_VALUE).all()
    assert (pixels[52:66] == 0).all()


@pytest.mark.parametrize("size", [(100, 25), (25, 100), (90, 70), (7, 200), (900, 1), (1, 900)])
def test_a_plain_picture_fills_exactly_its_part_of_the_input(size: tuple[int, int]) -> None:
    pixels, letterbox = letterbox_image(Image.new("RGB", size, "white"), 120, 80)
    x1, y1, x2, y2 = letterbox.to_input(np.array([[0.0, 0.0, *size]]))[0].round().astype(int)
    expected = np.full((80, 120, 3), 114)
    expected[y1:y2, x1:x2] = 255
    assert x2 > x1 and y2 > y1  # of the thinnest picture a pixel stays
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)


def test_results_outside_the_picture_are_clipped_to_it() -> None:
    letterbox = Letterbox.fit(100, 50, 200, 200)
    np.testing.assert_array_equal(letterbox.to_original(np.array([[-5.0, 0.0, 900.0, 60.0]])), [[0, 0, 100, 5]])


@pytest.mark.parametrize("sizes", [(0, 5, 5, 5), (5, 0, 5, 5), (5, 5, 0, 5), (5, 5, 5, 0), (5, -1, 5, 5)])
def test_sizes_must_be_positive(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="positive"):
        Letterbox.fit(*sizes)


def test_a_letterbox_refuses_an_image_of_another_size() -> None:
    with pytest.raises(ValueError, match="letterbox made for 10x10"):
        Letterbox.fit(10, 10, 20, 20).apply(Image.new("RGB", (10, 11)))


@given(st.lists(st.tuples(SHARE, SHARE, SHARE, SHARE), max_size=4))
def test_flipping_twice_changes_nothing(shares: list[tuple[float, ...]]) -> None:
    corners = np.array(shares, dtype=np.float64).reshape(-1, 2, 2) * 640
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    once = flip_boxes(boxes, 640)
    assert (once[:, 2] >= once[:, 0]).all()
    np.testing.assert_allclose(flip_boxes(once, 640), boxes, atol=1e-9)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_boxes_of_any_number_type_are_flipped_in_float64(kind: type) -> None:
    flipped = flip_boxes(np.array([4, 2, 9, 5], dtype=kind), 10.25)
    assert flipped.dtype == np.float64
    assert flipped.tolist() == [[1.25, 2.0, 6.25, 5.0]]


def test_flipped_boxes_fit_the_flipped_picture() -> None:
    pixels = np.zeros((10, 30), dtype=bool)
    pixels[2:5, 4:9] = True
    x1, y1, x2, y2 = flip_boxes(np.array([[4.0, 2.0, 9.0, 5.0]]), 30)[0].astype(int)
    rows, columns = np.nonzero(pixels[:, ::-1])
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x1, y1, x2, y2)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(orientation: int) -> None:
    upright = Image.new("RGB", (60, 40), "white")
    upright.paste("red", (0, 0, 20, 20))
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for step in undo.get(orientation, []):
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_image(_encoded(stored, "PNG", exif=exif))
    np.testing.assert_array_equal(np.asarray(loaded), np.asarray(upright))


HALF_CLEAR = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
PALETTE = Image.new("P", (4, 4), 1)
PALETTE.putpalette([0, 0, 0, 10, 200, 30])
GREY_16 = Image.fromarray(np.full((4, 4), 0x8080, dtype=np.uint16))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (_encoded(Image.new("L", (4, 4), 90), "PNG"), (90, 90, 90)),
        (_encoded(Image.new("1", (4, 4), 1), "PNG"), (255, 255, 255)),
        (_encoded(GREY_16, "PNG"), (128, 128, 128)),
        (_encoded(GREY_16, "TIFF"), (128, 128, 128)),
        (_encoded(HALF_CLEAR, "PNG"), (255, 127, 127)),
        (_encoded(Image.new("LA", (4, 4), (0, 0)), "PNG"), (255, 255, 255)),
        (_encoded(PALETTE, "PNG"), (10, 200, 30)),
        (_encoded(PALETTE, "PNG", transparency=1), (255, 255, 255)),
        (_encoded(Image.new("CMYK", (4, 4), (0, 0, 0, 255)), "TIFF"), (0, 0, 0)),
        (_encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), (1, 2, 3)),
    ],
    ids=["grey", "bilevel", "16-bit", "16-bit tiff", "alpha", "clear", "palette", "clear palette", "cmyk", "1x1"],
)
def test_every_mode_becomes_rgb(content: bytes, expected: tuple[int, int, int]) -> None:
    loaded = load_image(content)
    assert loaded.mode == "RGB"
    np.testing.assert_allclose(loaded.getpixel((0, 0)), expected, atol=1)


JPEG = _encoded(Image.effect_noise((64, 64), 80), "JPEG")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "does not exist"),
        (b"", "not an image"),
        (b"some text", "not an image"),
        (JPEG[: len(JPEG) // 2], "cannot be decoded"),
        (_encoded(Image.new("RGB", (50, 50)), "PNG")[:60], "cannot be decoded"),
    ],
    ids=["missing", "empty", "text", "truncated jpeg", "truncated png"],
)
def test_unusable_files_are_named(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    path = tmp_path / "Bär 1.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=sentence) as caught:
        load_image(path)
    assert str(path) in str(caught.value)


def test_huge_images_are_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    with pytest.raises(UserError, match="10x10 pixels, more than 99"):
        load_image(_encoded(Image.new("RGB", (10, 10)), "PNG"))


def test_input_sizes_are_told_in_the_order_in_which_they_are_given() -> None:
    assert sides(320, 512) == "320x512 (height x width)"
    assert sides(512, 512) == "512x512"


@pytest.mark.parametrize(
    ("height", "width", "multiple", "nearest"),
    [
        (380, 380, 32, "384"),
        (365, 365, 32, "352"),
        (5, 5, 16, "16"),
        (380, 500, 32, "384x512"),
        (96, 130, 14, "98x126"),
    ],
)
def test_the_nearest_possible_size_is_offered(height: int, width: int, multiple: int, nearest: str) -> None:
    assert nearest_sides(height, width, multiple) == nearest
