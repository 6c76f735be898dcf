"""What a server observes of the pictures it is sent: drift, and those of lowest confidence."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter
from PIL import Image

from detheads.deploy.detector import Detections, Detector, Prepared
from detheads.deploy.monitor.monitor import Monitor
from detheads.deploy.monitor.observer import Observer, Observing
from detheads.deploy.monitor.uncertain import Keeper, keeping
from detheads.deploy.serving.refusals import Refused
from detheads.deploy.serving.settings import Settings
from detheads.foundation.errors import UserError

if TYPE_CHECKING:
    from detheads.deploy.serving.models import Models

WAITING: Final = 16
"""Pictures that wait to be observed; further ones are passed over, and counted, for no answer is to wait for them."""

log = logging.getLogger("detheads.serving")


class Field:
    """The observers of a server's models, at work in a thread of their own.

    Attributes:
        passed_over: pictures that were not observed, since too many waited.
    """

    def __init__(self, options: Observing) -> None:
        self._options = options
        self._thread = ThreadPoolExecutor(1, "observer")
        self._stack, self._keepers = ExitStack(), dict[str, tuple[list[Any], Keeper]]()
        self._room = threading.Semaphore(WAITING)
        self.passed_over = 0

    def observer(self, name: str, detector: Detector) -> Observer:
        """For an open bundle: a monitor that begins anew, and the model's own folder of kept pictures.

        Raises:
            UserError: when the bundle cannot be monitored, or the folder is not one to keep pictures in.
        """
        warn = partial(log.warning, "%s: %s", name)
        monitor = Monitor(detector.manifest.name, detector.heads, warn) if self._options.monitor else None
        return Observer(monitor, self._keeper(name, detector))

    def see(self, observer: Observer, load: Callable[[], Image.Image], prepared: Prepared, found: Detections) -> None:
        """Have a picture observed, when there is time."""
        if not observer:
            return
        if not self._room.acquire(blocking=False):
            self.passed_over += 1
            return
        self._thread.submit(self._see, observer, load, prepared, found)

    def close(self) -> None:
        """Wait for what waits, and write what is kept."""
        self._thread.shutdown()
        try:
            self._stack.close()
        except (OSError, UserError) as error:
            log.error("the pictures to label could not be written: %s", error)

    def _see(self, observer: Observer, load: Callable[[], Image.Image], prepared: Prepared, found: Detections) -> None:
        try:
            observer.see(load, prepared, found)
        except Exception:  # a full disk, for one: the server answers all the same
            log.exception("a picture could not be observed")
        finally:
            self._room.release()

    def _keeper(self, name: str, detector: Detector) -> Keeper | None:
        if self._options.keep is None:
            return None
        if name not in self._keepers:
            folder = self._options.keep / name
            keeper = self._stack.enter_context(keeping(folder, self._options.most, detector))
            self._keepers[name] = detector.classes, keeper
        classes, keeper = self._keepers[name]
        if classes != detector.classes:
            log.warning(
                "%s has other classes than before: no pictures of it are kept until the server begins anew", name
            )
            return None
        return keeper


def router(models: "Models", settings: Settings) -> APIRouter:
    routes = APIRouter()

    @routes.get("/v1/monitor")
    async def monitor() -> dict[str, Any]:
        """How far what each model sees and finds has drifted from what it was proven on, as this process saw it."""
        if not settings.observing.monitor:
            raise Refused(404, "nothing is monitored here; start the server with --monitor.")
        told = {served.name: served.observer.monitor.to_dict() for served in models if served.observer.monitor}
        return {"models": told, "passed_over": models.field.passed_over}

    return routes
