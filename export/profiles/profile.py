"""What every host profile does: refuse what its host cannot take, build its files, feed its graph and read it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from detheads.backbones.features import FeatureSpec
from detheads.export.names import INPUT_NAME, OUTPUT_NAMES
from detheads.export.profiles.frames import Framed
from detheads.export.source import Trained
from detheads.export.tail import with_suppression
from detheads.foundation.geometry import letterbox_image
from detheads.foundation.manifest import Precision, Thresholds

Arrays = dict[str, NDArray[np.generic]]
"""Tensors by their names in a graph."""


@dataclass(frozen=True)
class Request:
    """What a profile is built from.

    Attributes:
        trained: the model that the bundle was made from.
        dense: its graph before suppression, in the precision of the bundle.
        thresholds: constants of suppression.
        largest_batch: images in one run at most, where a host wants to know.
        name: of the bundle.
        precision: of the bundle.
    """

    trained: Trained
    dense: onnx.ModelProto
    thresholds: Thresholds
    largest_batch: int
    name: str
    precision: Precision

    @cached_property
    def final(self) -> onnx.ModelProto:
        """The dense graph with suppression, as in the bundle's own file."""
        return with_suppression(self.dense, self.thresholds, self.spec.height, self.spec.width)

    @property
    def spec(self) -> FeatureSpec:
        """Input size, and the features that the head takes."""
        return self.trained.checkpoint.feature_spec

    @property
    def classes(self) -> list[str]:
        """Names by label."""
        return [category.name for category in self.trained.checkpoint.categories]


@dataclass(frozen=True)
class Built:
    """What a profile made.

    Attributes:
        graph: its graph.
        file: where that goes below the profile's folder.
        texts: further files below that folder, with their content.
        metadata: what the graph file says of itself besides what every graph of the bundle says.
    """

    graph: onnx.ModelProto
    file: str
    texts: Mapping[str, str]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Rows:
    """Detections of one image as a host reads them: boxes ``[n, 4]`` xyxy input pixels, scores, labels ``[n]``."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


class Profile(ABC):
    """One host, in a file of its own. What a host does as our own runtime does need not be written again.

    Attributes:
        name: of ``--profile``.
        host: the programs that it is for.
        preprocessing: what they do to a picture before the graph sees it.
        frame: the function of :mod:`detheads.export.profiles.live_frames` that does the same in torch; empty where it
            is our letterbox.
        most_images: in one run; None when free.
        features: the graph takes the features of the backbone instead of pictures.
    """

    name: ClassVar[str]
    host: ClassVar[str]
    preprocessing: ClassVar[str] = "the client's, best as ours: aspect kept, antialiased bilinear, centred, grey 114"
    frame: ClassVar[str] = ""
    most_images: ClassVar[int | None] = None
    features: ClassVar[bool] = False

    def refuse(self, spec: FeatureSpec) -> str | None:
        """Why a model of this input cannot be given to the host; None when it can."""
        return None

    @abstractmethod
    def build(self, request: Request) -> Built:
        """The graph and the files beside it."""

    def host_input(self, image: Image.Image, width: int, height: int) -> Framed:
        """A picture as the host gives it to the graph, and the way back."""
        return letterbox_image(image, width, height)

    def feed(self, images: NDArray[np.uint8]) -> Arrays:
        """Pictures of :meth:`host_input` ``[B, H, W, 3]`` as the graph's inputs, or the backbone's."""
        return {INPUT_NAME: planes(images)}

    def read(self, outputs: Arrays, thresholds: Thresholds, spec: FeatureSpec) -> list[Rows]:
        """The detections of each image, read as the host reads them."""
        found = []
        for boxes, scores, labels in zip(*(outputs[name] for name in OUTPUT_NAMES), strict=True):
            used = scores > 0
            found.append(Rows(boxes[used], scores[used], labels[used]))
        return found


def planes(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``[B, H, W, 3]`` -> ``[B, 3, H, W]``."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
