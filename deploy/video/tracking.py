"""Which detections of a frame are of the same object as those of frames before: ByteTrack, class by class.

ByteTrack (Zhang et al. 2022, arXiv:2110.06864) first continues tracks with the detections of high score, then with
those of low score, which begin none. The implementation is Roboflow's ``trackers``.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detheads.deploy.detections import Detections
from detheads.foundation.errors import UserError

try:
    import supervision
    from trackers import ByteTrackTracker
except ModuleNotFoundError:
    raise
except ImportError as error:  # OpenCV, on which trackers stands, wants libraries of a screen
    raise UserError(
        f"tracking does not start here ({error}); on Debian and its like: apt install libgl1 libglib2.0-0."
    ) from error

LOST_FRAMES: Final = 30
"""For which a track waits for its object, of 30 a second: one second, as in ByteTrack."""
LOWEST: Final = 0.1
"""Score below which detections take no part, as in ByteTrack."""
MANY: Final = 1000
"""Numbers of one class that are remembered before those of tracks that have ended are forgotten."""
NO_TRACK: Final = -1


class Tracks:
    """Numbers of objects over the frames of a video, from 1.

    Two classes never share a number, since each has a tracker of its own: a dog that covers a cat does not become it.

    Args:
        high: score of each class from which on a detection begins a track, ``[K]``.
        rate: frames a second.
    """

    def __init__(self, high: NDArray[np.floating], rate: float) -> None:
        self._high, self._rate = high, rate
        self._trackers: dict[int, ByteTrackTracker] = {}
        self._numbers: dict[int, dict[int, int]] = {}
        self.count = 0

    def of(self, found: Detections, time: float) -> NDArray[np.int64]:
        """The number of the object that each detection is of, ``[n]``; -1 where it is of no track, or not yet.

        A track is one when its object was seen twice in succession.

        Args:
            time: of the frame in seconds, later than that of the frame before.
        """
        numbers = np.full(len(found), NO_TRACK, np.int64)
        taking_part = found.scores >= np.minimum(LOWEST, self._high[found.labels])
        for label in sorted({*self._trackers, *found.labels[taking_part].tolist()}):
            places = np.flatnonzero(taking_part & (found.labels == label))
            tracked = self._tracker(label).update(
                supervision.Detections(
                    xyxy=found.boxes[places].astype(np.float32).reshape(-1, 4),
                    confidence=found.scores[places],
                    data={"place": places},
                ),
                timestamp=time,
            )
            if len(tracked):
                own = np.asarray(tracked.tracker_id).tolist()
                numbers[tracked.data["place"]] = [self._number(label, each) for each in own]
        return numbers

    def _tracker(self, label: int) -> Any:
        if label not in self._trackers:
            high = float(self._high[label])
            self._trackers[label] = ByteTrackTracker(
                lost_track_buffer=LOST_FRAMES,
                frame_rate=self._rate,
                track_activation_threshold=high,
                high_conf_det_threshold=high,
            )
            self._numbers[label] = {}
        return self._trackers[label]

    def _number(self, label: int, own: int) -> int:
        """The number of a tracker's own number."""
        if own == NO_TRACK:
            return NO_TRACK
        known = self._numbers[label]
        if own not in known:
            if len(known) >= MANY:
                alive = set(np.asarray(self._trackers[label].tracked_objects.tracker_id).tolist())
                self._numbers[label] = known = {key: known[key] for key in known if key in alive}
            self.count += 1
            known[own] = self.count
        return known[own]
