"""Reading ahead of the computation and writing behind it, each in a thread with a bounded queue."""

from __future__ import annotations

import collections
import concurrent.futures
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Deque, Generator, Generic, Iterable, Iterator, Optional, TypeVar

T = TypeVar("T")
_END: Any = object()
_POLL_S = 0.2
"""Wait in pieces of this length: on Windows, Ctrl-C does not interrupt a wait without timeout."""


def read_ahead(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """Yield items that a thread produces up to `depth` ahead. Exceptions are raised in turn."""
    iterator: Iterator[T] = iter(items)
    pool = ThreadPoolExecutor(max_workers=1)
    pending = collections.deque(pool.submit(next, iterator, _END) for _ in range(depth))
    try:
        while True:
            item = _result(pending.popleft())
            if item is _END:
                break
            pending.append(pool.submit(next, iterator, _END))
            yield item
            del item
    finally:
        for future in pending:
            future.cancel()
        pool.shutdown()
        if hasattr(items, "close"):  # so that an unfinished generator closes its files
            items.close()


class WriteBehind(Generic[T]):
    """Calls `function(item)` in a thread, in order. Exceptions are raised by the next method."""

    def __init__(self, function: Callable[[T], object], depth: int = 2) -> None:
        """depth: how many items may wait while one is being processed."""
        self._function = function
        self._depth = depth
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._pending: Deque[Future[None]] = collections.deque()
        self._error: Optional[BaseException] = None

    def put(self, item: T) -> None:
        """Queue an item, once fewer than `depth` are waiting."""
        self._wait(self._depth)
        self._pending.append(self._pool.submit(self._process, item))

    def drain(self) -> None:
        """Wait until all items are processed."""
        self._wait(0)

    def close(self) -> None:
        """Wait until all items are processed, and end the thread."""
        try:
            self.drain()
        finally:
            self._pool.shutdown()

    def _wait(self, unfinished: int) -> None:
        while len(self._pending) > unfinished:
            _result(self._pending.popleft())
        if self._error is not None:
            raise self._error

    def _process(self, item: T) -> None:
        if self._error is not None:  # items after a failed one are dropped
            return
        try:
            self._function(item)
        except BaseException as e:
            self._error = e


def _result(future: Future[T]) -> T:
    while not future.done():
        concurrent.futures.wait([future], timeout=_POLL_S)
    return future.result()
