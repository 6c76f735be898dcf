"""What of the field is observed while a detector runs: drift, and the pictures of lowest confidence."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from detheads.deploy.detector import Detections, Detector, Prepared
from detheads.deploy.monitor.monitor import Monitor
from detheads.deploy.monitor.uncertain import Keeper, keeping
from detheads.foundation.progress import Remark

MOST_KEPT = 100
"""Pictures that are kept where nobody says how many: about what is labelled in an afternoon."""


@dataclass(frozen=True)
class Observing:
    """What is to be observed.

    Attributes:
        monitor: drift.
        keep: folder for the pictures of lowest confidence; None: none are kept.
        most: of them.
    """

    monitor: bool = False
    keep: Path | None = None
    most: int = MOST_KEPT


class Observer:
    """Sees every picture of a run; threads may share it. Without a monitor and a keeper it does nothing."""

    def __init__(self, monitor: Monitor | None = None, keeper: Keeper | None = None) -> None:
        self.monitor, self.keeper = monitor, keeper

    def __bool__(self) -> bool:
        return self.monitor is not None or self.keeper is not None

    def see(self, load: Callable[[], Image.Image], prepared: Prepared, found: Detections) -> None:
        """Take note of a picture.

        Args:
            load: gives the RGB picture in full size, if it is to be kept.
            found: all that the graph found in it, whatever its score.
        """
        if self.monitor is not None:
            self.monitor.see(prepared, found)
        if self.keeper is not None:
            self.keeper.see(load, prepared, found)

    def to_dict(self) -> dict[str, Any]:
        """What the monitor says, and how many pictures are kept; without what is not observed."""
        monitor = {} if self.monitor is None else {"monitor": self.monitor.to_dict()}
        return monitor | ({} if self.keeper is None else {"kept": len(self.keeper)})

    def told(self) -> list[str]:
        """The same in a sentence each. The warnings themselves have gone to ``on_warning``."""
        monitor = [] if self.monitor is None else [f"monitor: {self.monitor.summary()}"]
        return monitor + (
            [] if self.keeper is None else [f"{self.keeper.folder}: {len(self.keeper)} pictures to label"]
        )


NOBODY = Observer()
"""Sees nothing."""


@contextmanager
def observing(detector: Detector, options: Observing, on_warning: Remark) -> Iterator[Observer]:
    """An observer of what a detector sees; at the end the monitor looks once more, and what is kept is whole.

    Args:
        on_warning: called with each warning of drift when it comes up.

    Raises:
        UserError: as :class:`Monitor` and :func:`keeping`.
    """
    monitor = Monitor(detector.manifest.name, detector.heads, on_warning) if options.monitor else None
    with ExitStack() as stack:
        keeper = None if options.keep is None else stack.enter_context(keeping(options.keep, options.most, detector))
        yield Observer(monitor, keeper)
        if monitor is not None:
            monitor.look()
