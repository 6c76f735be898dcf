"""Boxes on pictures."""

import numpy as np
import pytest
from PIL import Image

from detheads.foundation.drawing import draw_boxes, palette_color


def test_the_outline_follows_the_box_and_the_original_is_unchanged() -> None:
    image = Image.new("RGB", (200, 150), "white")
    drawn = np.asarray(draw_boxes(image, np.array([[50.0, 60.0, 120.0, 140.0]]), ["cat"], [3]))
    color = palette_color(3)
    for x, y in ((50, 100), (119, 100), (80, 139), (119, 139)):
        assert tuple(drawn[y, x]) == color
    assert tuple(drawn[100, 80]) == (255, 255, 255)
    assert tuple(drawn[100, 121]) == (255, 255, 255)
    assert np.asarray(image).min() == 255


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (40, 30), (3000, 2000)])
def test_any_picture_size_works(size: tuple[int, int]) -> None:
    boxes = np.array([[0, 0, *size], [-20, -20, 5000, 5000], [size[0], size[1], size[0] + 5, size[1] + 5]])
    drawn = draw_boxes(Image.new("RGB", size), boxes, ["a", "long name", "ü 熊"], [0, 1, 2], [0.5, 0.25, 1.0])
    assert drawn.size == size
    assert np.asarray(drawn).max() > 0


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    assert draw_boxes(Image.new(mode, (30, 30)), np.zeros((0, 4)), []).mode == "RGB"


def test_names_are_written_on_a_ground_of_the_boxs_colour() -> None:
    boxes = np.array([[200.0, 240.0, 600.0, 560.0]])
    drawn = np.asarray(draw_boxes(Image.new("RGB", (1200, 600), "gray"), boxes, ["HHH"], [0]))
    above = drawn[200:240, 200:300].reshape(-1, 3)
    colors = {tuple(pixel) for pixel in above.tolist()}
    assert palette_color(0) in colors
    assert (255, 255, 255) in colors or (0, 0, 0) in colors


def test_equal_names_get_equal_colours_without_indices() -> None:
    image = Image.new("RGB", (90, 40), "white")
    boxes = np.array([[0, 20, 20, 40], [30, 20, 50, 40], [60, 20, 80, 40]])
    drawn = np.asarray(draw_boxes(image, boxes, ["cat", "cat", "dog"]))
    first, second, third = (tuple(drawn[39, x]) for x in (10, 40, 70))
    assert first == second != third


def test_the_best_score_is_painted_last() -> None:
    box = np.array([[10.0, 10.0, 40.0, 40.0]] * 2)
    drawn = np.asarray(draw_boxes(Image.new("RGB", (50, 50)), box, ["", ""], [1, 2], [0.9, 0.2]))
    assert tuple(drawn[39, 20]) == palette_color(1)


def test_neighbouring_colours_differ() -> None:
    colors = np.array([palette_color(index) for index in range(80)], dtype=int)
    assert len({tuple(color) for color in colors.tolist()}) == 80
    assert np.abs(np.diff(colors, axis=0)).sum(axis=1).min() > 100
