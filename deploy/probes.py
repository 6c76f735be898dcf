"""Pictures that a bundle carries, with what PyTorch found in them: by these a device checks itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from detheads.foundation import atomic
from detheads.foundation.entry import Entry
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import BundleManifest
from detheads.foundation.reading import LARGEST_MANIFEST, read_json

FOLDER: Final = "probes"
INDEX: Final = f"{FOLDER}/probes.json"
MOST: Final = 64
"""Pictures of a bundle."""
Share = Annotated[float, Field(ge=0, le=1)]


class ReferenceDetections(Entry):
    """PyTorch's detections of a picture, best first; boxes xyxy, pixels of the picture."""

    boxes: list[tuple[float, float, float, float]]
    scores: list[float]
    labels: list[int]

    @property
    def arrays(self) -> "FoundArrays":
        """The same as arrays, as they are compared."""
        return FoundArrays(
            np.array(self.boxes, np.float64).reshape(-1, 4),
            np.array(self.scores, np.float32),
            np.array(self.labels, np.int64),
        )


class FoundArrays:
    """Detections of one picture: ``boxes [n, 4]`` xyxy, ``scores [n]``, ``labels [n]``."""

    def __init__(self, boxes: NDArray[np.float64], scores: NDArray[np.float32], labels: NDArray[np.integer]) -> None:
        self.boxes, self.scores, self.labels = boxes, scores, labels


class Probe(Entry):
    """A picture and what PyTorch finds in it, by head."""

    file: str
    """Below the bundle."""
    sha256: str
    found: Mapping[str, ReferenceDetections]


class ProbeSet(Entry):
    """What ``probes/probes.json`` says."""

    schema_version: Literal[1] = 1
    source: str
    """Where the pictures come from."""
    reference: str
    """What found the reference detections."""
    onnx_sha256: str
    """Of the graph that was shipped with them."""
    required: Share
    """Share of the best detections that must have a counterpart."""
    measured: Share
    """The share that the shipped graph reached where it was exported, in ONNX Runtime on the CPU."""
    probes: list[Probe] = Field(min_length=1, max_length=MOST)


def read_probes(bundle: Path, manifest: BundleManifest) -> ProbeSet:
    """The probes of a bundle, with every picture compared with its digest.

    Raises:
        UserError: when the bundle has none, they are not valid, or belong to another graph.
    """
    path = bundle / INDEX
    if not path.is_file():
        raise UserError(f"{bundle} carries no probes; export it again (without --probes 0), or give --data DATASET.")
    try:
        found = ProbeSet.model_validate(read_json(path, LARGEST_MANIFEST))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "top level"
        raise UserError(f"{path} is not valid: {where}: {first['msg']}; get the bundle again.") from None
    if found.onnx_sha256 != manifest.onnx.sha256:
        raise UserError(f"{path} belongs to another graph than {manifest.onnx.file}; export the bundle again.")
    heads = {head.name for head in manifest.heads}
    for probe in found.probes:
        picture = atomic.inside(bundle, probe.file, links=True)
        if not picture.is_file() or atomic.sha256_of(picture) != probe.sha256:
            raise UserError(f"{picture} is missing or altered; get the bundle again.")
        if probe.found.keys() != heads:
            raise UserError(f"{path} speaks of other heads than the manifest; export the bundle again.")
    return found
