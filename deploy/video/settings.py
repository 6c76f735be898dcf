"""What a run over a video is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from detheads.deploy.writers import Format
from detheads.foundation.errors import UserError

TIMEOUT: Final = 10.0
"""Seconds in which a stream or camera must open, and in which each read of it must bring something."""

LONGEST: Final = 10**9
"""Seconds; thirty years."""

Policy = Literal["newest", "all"]


@dataclass(frozen=True)
class Reading:
    """Which frames of a source are run.

    Attributes:
        every: one of so many frames.
        fps: at most so many frames of a second, of those.
        max_frames: so many are run; all when None.
        seconds: so much is run: of a recording by its own clock, of a live source by the wall's.
        live: of a live source that is faster than the model, the ``newest`` frames are run and older ones dropped and
            counted, or ``all``, while the source waits.
        reconnect: seconds in which a live source that is lost must come back; 0: it is not waited for.
        timeout: see :data:`TIMEOUT`.
    """

    every: int = 1
    fps: float | None = None
    max_frames: int | None = None
    seconds: float | None = None
    live: Policy = "newest"
    reconnect: float = 30.0
    timeout: float = TIMEOUT

    def __post_init__(self) -> None:
        if self.every < 1 or (self.max_frames is not None and self.max_frames < 1):
            raise UserError("one of at least 1 frames is run, and 1 frame at least; correct --every and --max-frames.")
        for name, value, least in (
            ("--fps", self.fps, 0.001),
            ("--seconds", self.seconds, 0.001),
            ("--reconnect", self.reconnect, 0.0),
            ("--timeout", self.timeout, 0.1),
        ):
            if value is not None and not least <= value <= LONGEST:
                raise UserError(f"{name} is a number from {least:g} to {LONGEST:,}, not {value}.")


@dataclass(frozen=True)
class VideoOptions:
    """What is made of the frames.

    Attributes:
        lowest: score from which on a detection of each class is written, ``[K]`` (see
            :func:`detheads.deploy.selection.lowest_scores`); the graph's own floor is the least.
        draw_score: the same for what is drawn, for all classes; without it :attr:`Detector.draw_scores`.
        formats: files of results.
        annotate: write the annotated video.
        track: number the objects.
        batch: frames in one run of the graph.
        font: a font file for the names, before the package's own.
    """

    lowest: NDArray[np.float32] | None = None
    draw_score: float | None = None
    formats: Sequence[Format] = ("jsonl",)
    annotate: bool = True
    track: bool = False
    batch: int = 1
    font: Path | None = None
    reading: Reading = field(default_factory=Reading)
