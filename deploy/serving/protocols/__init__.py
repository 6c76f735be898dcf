"""The interfaces that the server speaks besides its own: one file each.

A file defines ``router(models, settings) -> APIRouter``, and may define ``OPEN``, the paths that need no token because
they are health checks or look at the token themselves (:meth:`detheads.deploy.serving.settings.Settings.allows`). One
that ends in ``/`` stands for all paths below it.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType


def protocols() -> Iterator[ModuleType]:
    """Every interface, by its file name."""
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        found = importlib.import_module(f"{__name__}.{module.name}")
        if hasattr(found, "router"):
            yield found
