"""Detections below the floor of a bundle's graph, from the graph of its ``raw`` profile, which has no suppression."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detheads.deploy.agreement import INPUT
from detheads.deploy.detector import Detector
from detheads.deploy.session import CPU, SHORT, Rows, known_backends
from detheads.deploy.suppression import suppress
from detheads.foundation.bundle import profile_file
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import BundleManifest, ProfileEntry

RAW = "raw"
"""Name of the profile."""


def raw_profile(manifest: BundleManifest) -> ProfileEntry | None:
    """The bundle's graph without suppression, if it has one."""
    return next((entry for entry in manifest.profiles if entry.name == RAW), None)


class DenseDetector(Detector):
    """A detector with another score floor than that of the bundle's graph.

    It runs the graph of the ``raw`` profile in ONNX Runtime; suppression is done here, with the bundle's other
    constants.

    Args:
        floor: detections above it are given.

    Raises:
        UserError: as :class:`Detector`, and when the bundle has no such profile, or the backend runs engines or another
            library.
    """

    def __init__(
        self,
        bundle: str | Path,
        *,
        floor: float,
        backend: str = CPU,
        threads: int | None = None,
        head: str | None = None,
    ) -> None:
        super().__init__(bundle, backend=backend, threads=threads, head=head)
        self._again = partial(
            DenseDetector, Path(bundle).absolute(), floor=floor, backend=backend, threads=threads, head=head
        )
        self.session = DenseSession(Path(bundle), self.manifest, floor, backend, threads)  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return self._again, ()


class DenseSession:
    """As :class:`detheads.deploy.session.BundleSession`, for the ``raw`` profile."""

    def __init__(self, bundle: Path, manifest: BundleManifest, floor: float, backend: str, threads: int | None) -> None:
        entry = raw_profile(manifest)
        if entry is None:
            raise UserError(f"{bundle} has no graph without suppression; export it with --raw.")
        name, colon, device = backend.partition(":")
        if name in set(known_backends()) - SHORT.keys():
            raise UserError(
                f"scores below the graph's own floor run in ONNX Runtime and not in {name}; take --backend cpu or "
                "cuda, or a higher --score."
            )
        from detheads.deploy.backends.onnx_runtime import open_graph

        provider = f"{SHORT.get(name, name)}{colon}{device}"
        self._session = open_graph(profile_file(bundle, entry), provider=provider, threads=threads)
        self.manifest = manifest
        self.file = entry.file
        self.runtime = f"ONNX Runtime {provider}, {entry.file}, suppression in NumPy above {floor:g}"
        self._thresholds = manifest.first.thresholds.model_copy(update={"score": floor})

    def run(self, images: NDArray[np.uint8]) -> dict[str, Rows]:
        """See :meth:`detheads.deploy.session.BundleSession.run`."""
        boxes, scores = self._session.run(["boxes", "scores"], {INPUT: images})
        rows = self._thresholds.max_detections
        table = (
            np.zeros((len(images), rows, 4), np.float32),
            np.zeros((len(images), rows), np.float32),
            np.zeros((len(images), rows), np.int32),
        )
        height, width = self.manifest.input.height, self.manifest.input.width
        for image in range(len(images)):
            found = suppress(boxes[image], scores[image], self._thresholds, height=height, width=width)
            for whole, part in zip(table, found, strict=True):
                whole[image, : len(part)] = part
        return {self.manifest.first.name: table}
