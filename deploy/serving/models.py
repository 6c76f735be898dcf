"""The bundles that a server has open, by name."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detheads.deploy.agreement import OUTPUTS
from detheads.deploy.detector import Detections, Detector, Prepared
from detheads.deploy.serving.batcher import Batcher, Ran
from detheads.deploy.serving.decoding import decode
from detheads.deploy.serving.field import Field
from detheads.deploy.serving.fingerprint import Fingerprint, fingerprint
from detheads.deploy.serving.metrics import Metrics
from detheads.deploy.serving.refusals import Refused
from detheads.deploy.serving.settings import Settings
from detheads.deploy.serving.traffic import Traffic
from detheads.deploy.serving.warm import warm_up
from detheads.foundation.errors import suggest

__all__ = ["Answer", "Models", "Refused", "Served", "Traffic"]


@dataclass(frozen=True)
class Answer:
    """What was found in an uploaded picture.

    Attributes:
        width, height: of the picture as it is shown, pixels.
        timing: milliseconds: ``decode`` (with letterbox), ``wait`` (for the batch), ``inference`` (of the batch),
            ``total``.
        batch: pictures that ran together.
    """

    found: Detections
    width: int
    height: int
    timing: dict[str, float]
    batch: int


class Served:
    """One open bundle, which never changes: a replaced one is another object.

    Attributes:
        name: what clients call it.
        detector: the open bundle; its ``manifest`` says what it is.
        fingerprint: of the bundle's folder before it was opened.
        observer: of the pictures that are sent.
        together: pictures of several requests that run together.

    Raises:
        UserError: when it cannot be run.
    """

    def __init__(
        self,
        name: str,
        detector: Detector,
        settings: Settings,
        *,
        decoders: ThreadPoolExecutor,
        traffic: Traffic,
        metrics: Metrics,
        field: Field,
        fingerprint: Fingerprint,
    ) -> None:
        self.name, self.detector, self.fingerprint = name, detector, fingerprint
        self._field, self.observer = field, field.observer(name, detector)
        self._settings, self._decoders = settings, decoders
        self.together = warm_up(name, detector, settings)
        self._batcher = Batcher(
            detector.session.run,
            max_batch=self.together,
            max_wait=settings.max_wait_ms / 1000,
            on_the_way=lambda: traffic.in_progress,
            on_batch=lambda pictures, seconds: metrics.ran(name, pictures, seconds),
        )

    async def answer(self, content: bytes) -> Answer:
        """Detect in an uploaded file.

        Raises:
            Refused: when it is no picture, or beyond the limits.
        """
        began = perf_counter()
        prepared = await self.prepare(content)
        decoded = perf_counter()
        ran = await self._batcher.submit(_batch_of(prepared))
        letterbox = prepared[1]
        found = self.detector.found_in(ran.rows, 0, letterbox)
        self._field.see(self.observer, lambda: decode(content, self._settings), prepared, found)
        timing = {
            "decode": 1000 * (decoded - began),
            "wait": 1000 * ran.waited,
            "inference": 1000 * ran.took,
            "total": 1000 * (perf_counter() - began),
        }
        return Answer(found, letterbox.image_width, letterbox.image_height, timing, ran.batch)

    async def prepare(self, content: bytes) -> Prepared:
        """Decode and letterbox an uploaded file in one of the server's decoders; the decoded picture is let go.

        Raises:
            Refused: when it is no picture, or beyond the limits.
        """
        return await asyncio.get_running_loop().run_in_executor(
            self._decoders, lambda: self.detector.prepare(decode(content, self._settings))
        )

    async def detect(self, picture: Image.Image | Prepared) -> Detections:
        """Detect in an RGB image or a prepared picture, together with those of other requests."""
        if isinstance(picture, Image.Image):
            image = picture
            picture = await asyncio.get_running_loop().run_in_executor(
                self._decoders, lambda: self.detector.prepare(image)
            )
        ran = await self._batcher.submit(_batch_of(picture))
        return self.detector.found_in(ran.rows, 0, picture[1])

    async def infer(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """The graph's own outputs for letterboxed RGB ``[B, 3, H, W]``, by their names in the graph.

        Raises:
            Refused: when the array is not a uint8 batch of the model's input size, or larger than a batch here.
        """
        size = self.detector.manifest.input
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != (3, size.height, size.width):
            raise Refused(
                400,
                f"{self.name} takes uint8 [B, 3, {size.height}, {size.width}], not {batch.dtype} {list(batch.shape)}.",
            )
        if not 1 <= len(batch) <= self._settings.max_batch:
            raise Refused(400, f"{self.name} takes 1 to {self._settings.max_batch} pictures at once, not {len(batch)}.")
        return self._outputs(await self._batcher.submit(batch))

    async def close(self) -> None:
        """Wait for what is being run."""
        await self._batcher.close()

    def _outputs(self, ran: Ran) -> dict[str, NDArray[Any]]:
        manifest = self.detector.manifest
        return {
            manifest.prefix(head) + output: array
            for head in manifest.heads
            for output, array in zip(OUTPUTS, ran.rows[head.name], strict=True)
        }


class Models:
    """The bundles of a server by name, the first one for requests that name none.

    Args:
        bundles: folder of each by name. They are opened and warmed up one after the other.
        backends: what runs each, by name; what the settings say where it is not named.

    Attributes:
        backends: what runs each. What ``auto`` took at first stays, since a measurement under load would mislead.
        traffic: what is going on.
        metrics: what has been going on.
        field: what is observed of the pictures.
        look: set it to have the folders looked at now.
        refused: why a replacement is not served, by the name of the model that is kept in its place.

    Raises:
        UserError: when one cannot be opened or run.
    """

    def __init__(self, bundles: dict[str, Path], settings: Settings, backends: Mapping[str, str] | None = None) -> None:
        self.traffic, self.metrics, self.field = Traffic(), Metrics(), Field(settings.observing)
        self.bundles, self.backends = dict(bundles), dict(backends or {})
        self.refused: dict[str, str] = {}
        self.look = asyncio.Event()
        self._settings = settings
        self._decoders = ThreadPoolExecutor(settings.decoders, "decoder")
        self._served = {name: self.open(name) for name in bundles}

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    @property
    def names(self) -> Sequence[str]:
        return list(self._served)

    @property
    def ready(self) -> bool:
        """Whether new requests should come here; false once the server was asked to end."""
        return not self.traffic.draining

    def get(self, name: str | None = None) -> Served:
        """The model of that name as it is now; the first one when None.

        Raises:
            Refused: 404 when there is none of that name.
        """
        if name is None:
            return next(iter(self))
        if name not in self._served:
            raise Refused(
                404,
                f"no model {name[:80]!r} is served here, only {', '.join(self.names)}.{suggest(name[:80], self.names)}",
            )
        return self._served[name]

    def open(self, name: str) -> Served:
        """Open a model's folder as it is now, and warm it up; what is served does not change.

        Raises:
            UserError: when it cannot be opened or run.
        """
        seen = fingerprint(self.bundles[name])
        backend = self.backends.get(name, self._settings.backend)
        detector = Detector.load(self.bundles[name], backend=backend, threads=self._settings.threads)
        self.backends[name] = detector.backend
        return Served(
            name,
            detector,
            self._settings,
            decoders=self._decoders,
            traffic=self.traffic,
            metrics=self.metrics,
            field=self.field,
            fingerprint=seen,
        )

    def replace(self, served: Served) -> None:
        """Serve this from now on under its name. Requests that have begun with the one before it end with it; it is
        let go with the last of them."""
        self._served[served.name] = served
        self.refused.pop(served.name, None)

    async def close(self) -> None:
        """Wait for what is being run, and end all threads."""
        for served in self:
            await served.close()
        self._decoders.shutdown(cancel_futures=True)
        await asyncio.to_thread(self.field.close)


def _batch_of(prepared: Prepared) -> NDArray[np.uint8]:
    return prepared[0].transpose(2, 0, 1)[np.newaxis]  # [1, 3, H, W], a view
