"""Backgrounds and distractors of generated scenes. Arrays are float32 ``[H, W, 3]``, RGB 0..255."""

import math

import numpy as np
from numpy.typing import NDArray

Canvas = NDArray[np.floating]


def background(random: np.random.Generator, width: int, height: int) -> Canvas:
    """A muted background: two or three colours mixed by a gradient, blobs, stripes or a grid, with some grain."""
    first, second = muted_color(random), muted_color(random)
    pattern = (_gradient, _blobs, _stripes, _grid)[int(random.integers(4))]
    mix = pattern(random, width, height)
    canvas = first + mix[..., None] * (second - first)
    if random.random() < 0.5:
        canvas += 0.5 * _blobs(random, width, height)[..., None] * (muted_color(random) - canvas)
    grain = random.random() * 16
    canvas += ((random.random((height, width, 1), dtype=np.float32) - 0.5) * grain).astype(np.float32)
    return canvas.astype(np.float32)


def add_squiggles(random: np.random.Generator, canvas: Canvas) -> None:
    """Draw a few curved lines over ``canvas``: things that are no object of any class."""
    height, width = canvas.shape[:2]
    for _ in range(int(random.integers(0, 5))):
        start = random.random(2) * (width, height)
        reach = (random.random() * 0.4 + 0.15) * max(width, height)
        along = np.linspace(0.0, 1.0, int(reach) * 3)
        heading = random.random() * 2 * math.pi + (random.random() * 6 - 3) * along
        heading += 1.5 * np.sin(along * (6 + 14 * random.random()))
        step = reach / len(along)
        x, y = start[0] + np.cumsum(np.cos(heading)) * step, start[1] + np.cumsum(np.sin(heading)) * step
        thickness = int(random.integers(1, 3))
        offsets = np.arange(-thickness, thickness + 1)
        brush = np.array([(i, j) for i in offsets for j in offsets if i * i + j * j <= thickness * thickness])
        columns = (x[:, None] + brush[:, 0]).astype(np.int64).ravel()
        rows = (y[:, None] + brush[:, 1]).astype(np.int64).ravel()
        within = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        canvas[rows[within], columns[within]] = random.random(3) * 255


def muted_color(random: np.random.Generator) -> Canvas:
    """A colour of low saturation, ``[3]``."""
    grey = 45 + random.random() * 165
    return (grey + (random.random(3) - 0.5) * 70).astype(np.float32)


def _axes(random: np.random.Generator, width: int, height: int) -> tuple[Canvas, Canvas]:
    """Coordinates of a randomly turned frame, in units of the long side, each ``[H, W]``."""
    angle = random.random() * 2 * math.pi
    x = (np.arange(width, dtype=np.float32) / max(width, height))[None, :]
    y = (np.arange(height, dtype=np.float32) / max(width, height))[:, None]
    cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return x * cosine + y * sine, y * cosine - x * sine


def _gradient(random: np.random.Generator, width: int, height: int) -> Canvas:
    along, _ = _axes(random, width, height)
    return (along - along.min()) / max(float(np.ptp(along)), 1e-6)


def _stripes(random: np.random.Generator, width: int, height: int) -> Canvas:
    along, _ = _axes(random, width, height)
    waves = np.sin(along * np.float32(2 * math.pi * (2 + 14 * random.random())))
    return np.clip(waves * (1 + 3 * random.random()) * 0.5 + 0.5, 0, 1).astype(np.float32) * np.float32(0.6)


def _grid(random: np.random.Generator, width: int, height: int) -> Canvas:
    along, across = _axes(random, width, height)
    frequency = np.float32(2 * math.pi * (3 + 6 * random.random()))
    lines = np.maximum(np.cos(along * frequency), np.cos(across * frequency))
    return np.clip((lines - 0.9) * 8, 0, 1).astype(np.float32) * np.float32(0.7)


def _blobs(random: np.random.Generator, width: int, height: int) -> Canvas:
    cells = int(random.integers(3, 9))
    coarse = random.random((cells, cells), dtype=np.float32)
    rows, columns = _interpolation(cells, height), _interpolation(cells, width)
    return rows @ coarse @ columns.T


def _interpolation(cells: int, length: int) -> Canvas:
    """Weights ``[length, cells]`` of a smooth interpolation from ``cells`` knots to ``length`` pixels."""
    position = np.linspace(0, cells - 1, length, dtype=np.float32)[:, None]
    nearness = np.clip(1 - np.abs(position - np.arange(cells, dtype=np.float32)), 0, 1)
    weights = nearness * nearness * (3 - 2 * nearness)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
