"""Bundles replaced under a running server: opened, checked and warmed up beside the old one, which then makes room."""

import asyncio
import logging
from contextlib import suppress

from detheads.deploy.serving.fingerprint import Fingerprint, fingerprint
from detheads.deploy.serving.models import Models
from detheads.deploy.serving.settings import Settings
from detheads.foundation.errors import UserError

log = logging.getLogger("detheads.serving")


class Watch:
    """Looks at the folders of the models, and serves what came into the place of a bundle.

    A folder that changes is left alone until two looks in a row find it the same, so that a copy is complete. What
    cannot be opened or run is refused with a sentence in the log and in ``/v1/models``; the old one stays.
    """

    def __init__(self, models: Models, settings: Settings) -> None:
        self._models, self._every = models, settings.watch_seconds
        self._refused: dict[str, Fingerprint] = {}
        self._changing: dict[str, Fingerprint] = {}

    async def run(self) -> None:
        """Look for ever; a look that was asked for (``models.look``) does not wait for the next one."""
        asked = self._models.look
        while True:
            with suppress(TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
                await asyncio.wait_for(asked.wait(), self._every or None)
            now = asked.is_set()
            asked.clear()
            for name in self._models.names:
                try:
                    await self.look(name, at_once=now)
                except Exception:  # whatever happens to one folder must not end the watch of the others
                    log.exception("%s could not be looked at", name)

    async def look(self, name: str, *, at_once: bool) -> None:
        """Replace a model whose folder has changed. ``at_once``: without waiting for a second look."""
        seen = await asyncio.to_thread(fingerprint, self._models.bundles[name])
        if seen == self._models.get(name).fingerprint:
            self._models.refused.pop(name, None)  # what was refused is gone again
            return
        if not at_once and (seen == self._refused.get(name) or seen != self._changing.get(name)):
            self._changing[name] = seen
            return
        try:
            served = await asyncio.to_thread(self._models.open, name)
        except UserError as error:
            self._refused[name] = seen
            self._models.refused[name] = str(error)
            self._models.metrics.reloaded(name, "refused")
            log.warning("the new bundle of %s is not served, the old one is kept: %s", name, error)
            return
        self._models.replace(served)
        self._models.metrics.reloaded(name, "served")
        log.info("%s was replaced by %s", name, served.detector)
