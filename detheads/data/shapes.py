"""The objects of generated scenes: a shape and a texture per class, as functions of the object's own coordinates.

Coordinates ``(u, v)`` are arrays; the shape fills about ``[-1, 1] x [-1, 1]`` with ``v`` pointing down.
A shape function returns approximate signed distances (negative inside). A texture function returns the share of the
second colour, 0..1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating]


@dataclass(frozen=True)
class ObjectClass:
    """What makes a class recognisable. Colour, size, angle and aspect vary from object to object."""

    name: str
    distance: Callable[[Field, Field], Field]
    texture: Callable[[Field, Field], Field]


def _disc(u: Field, v: Field) -> Field:
    return np.hypot(u, v) - 1


def _ring(u: Field, v: Field) -> Field:
    return np.abs(np.hypot(u, v) - 0.74) - 0.26


def _rectangle(u: Field, v: Field, half_width: float, half_height: float) -> Field:
    return np.maximum(np.abs(u) - half_width, np.abs(v) - half_height)


def _square(u: Field, v: Field) -> Field:
    return _rectangle(u, v, 0.82, 0.82)


def _triangle(u: Field, v: Field) -> Field:
    return np.maximum(v - 0.7, 0.866 * np.abs(u) - 0.5 * (v + 0.95))


def _star(u: Field, v: Field) -> Field:
    # Fold the plane onto one half of one of the five points, then measure the distance to that point's edge.
    sector = 2 * math.pi / 5
    angle = np.abs((np.arctan2(u, -v) + sector / 2) % sector - sector / 2)
    radius = np.hypot(u, v)
    inner_u, inner_v = 0.45 * math.sin(sector / 2), 0.45 * math.cos(sector / 2)
    length = math.hypot(inner_u, 1 - inner_v)
    return radius * np.sin(angle) * ((1 - inner_v) / length) + (radius * np.cos(angle) - 1) * (inner_u / length)


def _cross(u: Field, v: Field) -> Field:
    return np.minimum(_rectangle(u, v, 1.0, 0.34), _rectangle(u, v, 0.34, 1.0))


def _crescent(u: Field, v: Field) -> Field:
    return np.maximum(np.hypot(u, v) - 1, 0.72 - np.hypot(u - 0.5, v))


def _heart(u: Field, v: Field) -> Field:
    # A diamond with a disc on each of its upper edges.
    half = 0.62
    diamond = (np.abs(u) + np.abs(v - 0.22)) * math.sqrt(0.5) - half * math.sqrt(0.5) * 1.2
    offset = half * 0.6
    return np.minimum(diamond, np.hypot(np.abs(u) - offset, v - 0.22 + offset) - half * 0.6 * math.sqrt(2))


def _arrow(u: Field, v: Field) -> Field:
    head = np.maximum(-u, 0.707 * (u + np.abs(v)) - 0.707)
    shaft = np.maximum(np.abs(u + 0.45) - 0.55, np.abs(v) - 0.36)
    return np.minimum(head, shaft)


def _flower(u: Field, v: Field) -> Field:
    petals = 0.74 + 0.26 * np.cos(6 * np.arctan2(v, u))
    return (np.hypot(u, v) - petals) * 0.6


def _step(values: Field, sharpness: float) -> Field:
    """A soft square wave: a texture's edges must not alias when the object is small."""
    return np.clip(values * sharpness + 0.5, 0, 1)


def _dots(u: Field, v: Field) -> Field:
    return _step(np.cos(7.5 * u) * np.cos(7.5 * v) - 0.35, 3)


def _spokes(u: Field, v: Field) -> Field:
    return _step(np.cos(10 * np.arctan2(v, u)), 2)


def _stripes(u: Field, v: Field) -> Field:
    return _step(np.sin(11 * v), 2)


def _checks(u: Field, v: Field) -> Field:
    return _step(np.sin(7.6 * u) * np.sin(7.6 * v), 4)


def _diagonals(u: Field, v: Field) -> Field:
    return _step(np.sin(8 * (u + v)), 2)


def _gradient(u: Field, v: Field) -> Field:
    return np.clip(np.hypot(u, v), 0, 1)


def _bands(u: Field, v: Field) -> Field:
    return _step(np.cos(13 * np.hypot(u, v)), 2)


def _waves(u: Field, v: Field) -> Field:
    return _step(np.sin(9 * v + 1.6 * np.sin(6 * u)), 2)


def _highlight(u: Field, v: Field) -> Field:
    return np.clip(1.1 - 2.2 * np.hypot(u + 0.32, v + 0.32), 0, 1)


def _chevrons(u: Field, v: Field) -> Field:
    return _step(np.sin(10 * (u + 0.9 * np.abs(v))), 2)


CLASSES = (
    ObjectClass("disc", _disc, _dots),
    ObjectClass("ring", _ring, _spokes),
    ObjectClass("triangle", _triangle, _stripes),
    ObjectClass("square", _square, _checks),
    ObjectClass("star", _star, _gradient),
    ObjectClass("cross", _cross, _diagonals),
    ObjectClass("crescent", _crescent, _waves),
    ObjectClass("heart", _heart, _highlight),
    ObjectClass("arrow", _arrow, _chevrons),
    ObjectClass("flower", _flower, _bands),
)
"""The classes of generated scenes, in the order of their labels."""
