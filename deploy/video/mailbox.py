"""Frames between the thread that reads them and the one that runs them: few, and never an unknown number."""

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """A queue of at most ``limit`` items for one writer and one reader.

    Args:
        limit: items that may wait.
        newest: a full queue gives up its oldest item for a new one, and counts it; without, the writer waits.

    Attributes:
        dropped: items that were given up.
    """

    def __init__(self, limit: int, *, newest: bool) -> None:
        self.dropped = 0
        self._limit, self._newest = limit, newest
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, item: Item) -> bool:
        """Add an item; False when nobody takes any more."""
        with self._changed:
            if self._newest and not self._closed and len(self._items) >= self._limit:
                self._items.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._limit)
            if self._closed:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def get(self, timeout: float | None = None) -> Item | None:
        """The oldest item; None when there is none within ``timeout`` seconds, or the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items, timeout)
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    @property
    def ended(self) -> bool:
        """Nothing waits, and nothing more will come."""
        with self._changed:
            return self._closed and not self._items

    def close(self) -> None:
        """Take nothing more; what waits can still be had."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
