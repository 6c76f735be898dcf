"""Faults planted on purpose: each changes an artefact in one way that a proof has to see and an explanation to name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image

from detheads.deploy import Detector
from detheads.deploy.detector import Prepared
from detheads.export.tail import with_suppression
from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest, write_manifest
from detheads.foundation.geometry import Letterbox, letterbox_image
from detheads.foundation.manifest import Precision

ATTENTION = "backbone.maps.model.blocks.1.attn"
RUINED = "head.class_tower.0.0"
HALF_STRIDE = 0.5


def rewrite(bundle: Path, model: onnx.ModelProto, precision: Precision = "fp32") -> None:
    """Put another graph into a bundle, as one who edits it would: with its digest in the manifest."""
    manifest = read_manifest(bundle)
    path = bundle / manifest.onnx.file
    onnx.save_model(model, str(path))
    entry = manifest.onnx.model_copy(update={"sha256": atomic.sha256_of(path), "bytes": path.stat().st_size})
    write_manifest(bundle, manifest.model_copy(update={"onnx": entry, "precision": precision}))


def completed(dense: onnx.ModelProto, bundle: Path) -> onnx.ModelProto:
    """A changed dense graph with the suppression of a bundle."""
    manifest = read_manifest(bundle)
    return with_suppression(dense, manifest.thresholds, manifest.input.height, manifest.input.width)


def overflowing_attention(dense: onnx.ModelProto) -> None:
    """Attention scores are 2**24 times as large before they are scaled back: exact in FP32, beyond FP16."""
    (softmax,) = [node for node in dense.graph.node if node.op_type == "Softmax" and node.name.startswith(ATTENTION)]
    (product,) = [node for node in dense.graph.node if softmax.input[0] in node.output]
    for place in (0, 1):
        product.input[place] = _times(dense, product.input[place], 2.0**12, product)
    softmax.input[0] = _times(dense, softmax.input[0], 2.0**-24, softmax)


def ruinous_layer(dense: onnx.ModelProto) -> None:
    """One channel is 2**12 times as large where it enters a layer, whose weights undo it: exact in FP32; with one INT8
    scale for all channels nothing is left of the others."""
    for node in [node for node in dense.graph.node if node.name.startswith(f"{RUINED}/Conv")]:
        weight = next(entry for entry in dense.graph.initializer if entry.name == node.input[1])
        factors = np.ones((1, weight.dims[1], 1, 1), np.float32)
        factors[0, 0] = 2.0**12
        node.input[0] = _times(dense, node.input[0], factors, node)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) / factors, weight.name))


def without_normalisation(dense: onnx.ModelProto) -> None:
    """The backbone is given 0..255."""
    (raw,) = [node.output[0] for node in dense.graph.node if node.op_type == "Cast" and "images" in node.input]
    (first,) = [node for node in dense.graph.node if node.name == "backbone.maps.model.patch_embed.proj/Conv"]
    first.input[0] = raw


def zeroed_class(dense: onnx.ModelProto) -> None:
    """The weights of class 1 are zero."""
    (node, *_) = [node for node in dense.graph.node if node.name.startswith("head.classes/Conv")]
    (weight,) = [entry for entry in dense.graph.initializer if entry.name == node.input[1]]
    values = numpy_helper.to_array(weight).copy()
    values[1] = 0
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def shifted_boxes(strides: NDArray[np.floating]) -> Callable[[onnx.ModelProto], None]:
    """Boxes are decoded at the corners of their cells instead of at the centres."""

    def change(dense: onnx.ModelProto) -> None:
        shift = np.repeat(HALF_STRIDE * strides.reshape(1, -1, 1), 4, axis=2).astype(np.float32)
        for node in dense.graph.node:
            node.output[:] = ["unshifted" if name == "dense_boxes" else name for name in node.output]
        dense.graph.initializer.append(numpy_helper.from_array(shift, "half_strides"))
        dense.graph.node.append(
            onnx.helper.make_node("Add", ["unshifted", "half_strides"], ["dense_boxes"], "head/Add_shift")
        )

    return change


def halved(dense: onnx.ModelProto) -> onnx.ModelProto:
    """Everything in FP16, as a converter without any table of exceptions does it."""
    model = onnx.ModelProto()
    model.CopyFrom(dense)
    graph, wide, half = model.graph, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    for entry in graph.initializer:
        if entry.data_type == wide:
            entry.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(entry).astype(np.float16), entry.name))
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == wide:
                attribute.i = half
            elif attribute.t.data_type == wide:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float16)))
    del graph.value_info[:]
    for output in graph.output:
        inner = f"{output.name}_half"
        for node in graph.node:
            node.output[:] = [inner if name == output.name else name for name in node.output]
        graph.node.append(onnx.helper.make_node("Cast", [inner], [output.name], to=wide))
    return model


def other_iou(model: onnx.ModelProto, iou: float) -> None:
    """Suppression at another IoU than the manifest says."""
    (constant,) = [entry for entry in model.graph.initializer if entry.name == "suppression/nms_iou"]
    constant.CopyFrom(numpy_helper.from_array(np.array(iou, np.float32), constant.name))


def preparing(apply: Callable[[Image.Image, int, int], NDArray[np.uint8]]) -> type[Detector]:
    """A runtime that makes its input in another way, and believes that it was letterboxed."""

    class Otherwise(Detector):
        def prepare(self, image: Image.Image) -> Prepared:
            width, height = self.manifest.input.width, self.manifest.input.height
            return apply(image, width, height), Letterbox.fit(image.width, image.height, width, height)

    return Otherwise


def swapped(image: Image.Image, width: int, height: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(letterbox_image(image, width, height)[0][:, :, ::-1])


def moved(image: Image.Image, width: int, height: int) -> NDArray[np.uint8]:
    """One pixel to the right: the last column goes, the first is padding twice."""
    array = letterbox_image(image, width, height)[0]
    return np.concatenate([np.full_like(array[:, :1], 114), array[:, :-1]], axis=1)


def nearest(image: Image.Image, width: int, height: int) -> NDArray[np.uint8]:
    return _resized(image, width, height, Image.Resampling.NEAREST, 114)


def black(image: Image.Image, width: int, height: int) -> NDArray[np.uint8]:
    return _resized(image, width, height, Image.Resampling.BILINEAR, 0)


def _resized(image: Image.Image, width: int, height: int, resample: Image.Resampling, colour: int) -> NDArray[np.uint8]:
    fit = Letterbox.fit(image.width, image.height, width, height)
    array = np.full((height, width, 3), colour, np.uint8)
    resized = image.resize((fit.resized_width, fit.resized_height), resample)
    array[fit.pad_top :, fit.pad_left :][: fit.resized_height, : fit.resized_width] = np.asarray(resized)
    return array


def _times(model: onnx.ModelProto, value: str, factor: Any, before: onnx.NodeProto) -> str:
    """A new tensor ``value * factor``, made right before a node, in its module."""
    name = f"{value}_scaled{len(model.graph.node)}"
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(factor, np.float32), f"{name}_by"))
    module = before.name.rpartition("/")[0]
    node = onnx.helper.make_node("Mul", [value, f"{name}_by"], [name], f"{module}/Mul_{len(model.graph.node)}")
    model.graph.node.insert(list(model.graph.node).index(before), node)
    return name
