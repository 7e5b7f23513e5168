"""Work of threads beside the one that computes: reading ahead of it, and writing behind it, both with bounded queues."""

from __future__ import annotations

import queue
import threading
from typing import Any, Callable, Generic, Iterable, Iterator, Optional, TypeVar

T = TypeVar("T")
_END = object()
_WAKE_S = 0.2
"""How long one waits before looking whether the other side is still there; also how soon Ctrl-C is seen on Windows."""


def ahead(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """Yield the items, which a thread makes up to `depth` ahead. What it raises is raised here, in its turn."""
    waiting: queue.Queue = queue.Queue(depth)
    left = threading.Event()
    failed: list = []

    def work() -> None:
        try:
            for item in items:
                if not _put(waiting, item, left):
                    return
        except BaseException as e:
            failed.append(e)
        _put(waiting, _END, left)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item = _get(waiting, left)
            if item is _END:
                break
            yield item
    finally:
        left.set()
        thread.join()
        close = getattr(items, "close", None)
        if close is not None:  # a generator left in the middle lets go of its files
            close()
    if failed:
        raise failed[0]


class Behind(Generic[T]):
    """Call `function(item)` in a thread, in order, up to `depth` items behind. What it raises is raised by `put` or `close`."""

    def __init__(self, function: Callable[[T], object], depth: int = 2) -> None:
        self._function = function
        self._waiting: queue.Queue = queue.Queue(depth)
        self._left = threading.Event()
        self._failed: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Hand over an item; waits while `depth` items are waiting."""
        _put(self._waiting, item, self._left)
        self._raise()

    def close(self) -> None:
        """Wait until all items are done."""
        _put(self._waiting, _END, self._left)
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _work(self) -> None:
        try:
            while True:
                item = _get(self._waiting, self._left)
                if item is _END:
                    return
                self._function(item)
        except BaseException as e:
            self._failed = e
        finally:
            self._left.set()


def _put(waiting: queue.Queue, item: Any, left: threading.Event) -> bool:
    while not left.is_set():
        try:
            waiting.put(item, timeout=_WAKE_S)
            return True
        except queue.Full:
            pass
    return False


def _get(waiting: queue.Queue, left: threading.Event) -> Any:
    while not left.is_set():
        try:
            return waiting.get(timeout=_WAKE_S)
        except queue.Empty:
            pass
    return _END
