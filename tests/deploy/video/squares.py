"""A bundle whose graph finds coloured squares exactly, and clips of such squares whose places are known.

The graph finds a red and a green square in each half of its input (upper and lower): the box around all pixels of that
colour. It shares nothing with the heads of the library.
"""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from detheads.foundation import atomic
from detheads.foundation.bundle import write_manifest
from detheads.foundation.manifest import BundleManifest

SIDE = 96
COLORS = {"red": (225, 25, 25), "green": (25, 190, 50)}
SCORE = 0.9
GREY = 110

_PARITY: dict[str, float] = {"batch": 1, "dense_boxes": 0, "relative_boxes": 0, "best_boxes": 0, "dense_scores": 0}
_MANIFEST: dict[str, Any] = {
    "schema_version": 2,
    "name": "squares",
    "classes": [{"id": number, "name": name} for number, name in enumerate(COLORS, start=1)],
    "input": {"height": SIDE, "width": SIDE},
    "thresholds": {},
    "backbone": {"name": "b", "timm_name": "b", "licence": "none", "weights_sha256": None},
    "head": {"name": "h", "config": {}, "parameters": 1},
    "precision": "fp32",
    "hashes": {},
    "tools": {},
    "engines": [],
}
_ONNX: dict[str, Any] = {"file": "model.onnx", "sha256": "", "opset": 20, "bytes": 1, "parity": _PARITY}

Place = tuple[str, float, float]
"""Colour, and the left and upper edge of a square in pixels of the frame."""


def write_bundle(folder: Path) -> Path:
    """The bundle that finds squares, in ``folder``."""
    folder.mkdir(parents=True)
    model = _graph()
    helper.set_model_props(model, BundleManifest.model_validate(_MANIFEST | {"onnx": _ONNX}).graph_metadata())
    path = folder / "model.onnx"
    onnx.save(model, str(path))
    found = _ONNX | {"sha256": atomic.sha256_of(path), "bytes": path.stat().st_size}
    write_manifest(folder, BundleManifest.model_validate(_MANIFEST | {"onnx": found}))
    return folder


def _graph() -> onnx.ModelProto:
    half, classes = SIDE // 2, len(COLORS)
    node = helper.make_node
    nodes = [
        node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["floats", "one"], ["each"]),  # [B, 1, 3, H, W]
        node("Sub", ["each", "colors"], ["differences"]),  # [B, K, 3, H, W]
        node("Abs", ["differences"], ["distances"]),
        node("ReduceMax", ["distances", "two"], ["distance"], keepdims=0),  # [B, K, H, W]
        node("Less", ["distance", "near"], ["is_near"]),
        node("Cast", ["is_near"], ["mask"], to=TensorProto.FLOAT),
        node("Reshape", ["mask", "rows_shape"], ["rows"]),  # [B, 2K, H / 2, W]
        node("ReduceMax", ["rows", "two"], ["columns"], keepdims=0),  # [B, 2K, W]
        node("ReduceMax", ["rows", "three"], ["lines"], keepdims=0),  # [B, 2K, H / 2]
        node("ReduceMax", ["columns", "two"], ["there"], keepdims=0),  # [B, 2K]
        node("Mul", ["there", "score"], ["scores"]),
        node("Mul", ["there", "labels_of"], ["labels_there"]),
        node("Cast", ["labels_there"], ["labels"], to=TensorProto.INT32),
    ]
    for name, source, last in (("x1", "columns", 0), ("y1", "lines", 0), ("x2", "columns", 1), ("y2", "lines", 1)):
        nodes += [
            node("ArgMax", [source], [f"{name}_at"], axis=2, keepdims=1, select_last_index=last),
            node("Cast", [f"{name}_at"], [f"{name}_float"], to=TensorProto.FLOAT),
        ]
    nodes += [
        node("Concat", ["x1_float", "y1_float", "x2_float", "y2_float"], ["pixels"], axis=2),
        node("Add", ["pixels", "offset"], ["boxes"]),
    ]
    colors = np.array(list(COLORS.values()), np.float32).reshape(1, classes, 3, 1, 1)
    offset = np.array([[[0, half * (row % 2), 1, half * (row % 2) + 1] for row in range(2 * classes)]], np.float32)
    constants = {
        "one": np.array([1]),
        "two": np.array([2]),
        "three": np.array([3]),
        "colors": colors,
        "near": np.float32(60),
        "rows_shape": np.array([-1, 2 * classes, half, SIDE]),
        "score": np.float32(SCORE),
        "labels_of": np.array([[row // 2 for row in range(2 * classes)]], np.float32),
        "offset": offset,
    }
    graph = helper.make_graph(
        nodes,
        "squares",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", 2 * classes, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2 * classes]),
            helper.make_tensor_value_info("labels", TensorProto.INT32, ["batch", 2 * classes]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def picture(places: Iterable[Place], size: tuple[int, int], side: int) -> NDArray[np.uint8]:
    """A grey frame with squares of ``side`` pixels, uint8 ``[height, width, 3]``."""
    canvas = np.full((size[1], size[0], 3), GREY, np.uint8)
    for color, left, top in places:
        x, y = round(left), round(top)
        canvas[max(0, y) : max(0, y + side), max(0, x) : max(0, x + side)] = COLORS[color]
    return canvas


def moving(frame: int) -> list[Place]:
    """A red square that goes right in the upper half of 192x144 pixels, a green one that goes left in the lower."""
    return [("red", 10 + 2 * frame, 16.0), ("green", 150 - 2 * frame, 96.0)]


def write_clip(
    path: Path | str | Any,
    frames: int = 30,
    *,
    size: tuple[int, int] = (192, 144),
    places: Callable[[int], Sequence[Place]] = moving,
    side: int = 24,
    ticks: Sequence[int] | None = None,
    rotation: int = 0,
    encoder: str = "libx264",
    container: str | None = None,
    options: dict[str, str] | None = None,
    aspect: Fraction | None = None,
) -> Any:
    """Encode squares at ``places(frame)``, 30 frames a second or at ``ticks`` of 1/90000 s."""
    base = Fraction(1, 30) if ticks is None else Fraction(1, 90_000)
    with av.open(path if hasattr(path, "write") else str(path), "w", format=container, options=options or {}) as file:
        stream = file.add_stream(encoder, rate=30, options={"bf": "0", "g": "10"} if encoder == "libx264" else {})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv444p" if size[0] % 2 or size[1] % 2 else ("yuvj420p" if encoder == "mjpeg" else "yuv420p")
        stream.time_base = stream.codec_context.time_base = base
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(places(number), size, side), format="rgb24")
            frame.pts, frame.time_base = number if ticks is None else ticks[number], base
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def read_clip(path: Path) -> list[tuple[int, float, tuple[int, int]]]:
    """Ticks, seconds and size of each frame of a video."""
    with av.open(str(path)) as file:
        return [(frame.pts, float(frame.time), (frame.width, frame.height)) for frame in file.decode(video=0)]
