"""Results computed ahead of their use, by threads."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    ahead: int,
    threads: int = 1,
    start: Callable[[], object] | None = None,
) -> Generator[Result, None, None]:
    """``function`` of each item, in order, while up to ``ahead`` further ones are computed or wait to be used.

    An error is raised where its result would have come. When the iterator is closed, by leaving its loop as well, what
    was not begun never is, and the threads end.

    Args:
        function: called in a thread, in several at a time when ``threads`` is more than 1.
        items: taken one by one in the caller's thread.
        start: called first in each thread.
    """
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads, initializer=start)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
