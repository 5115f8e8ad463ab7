"""Reading ahead and writing behind: one thread and one bounded queue at each end of the road.

The only place that starts threads. Thread-local state (torch's gradient mode, say) does not
follow the work into them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from threading import Condition, Event, Thread, current_thread
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

# Windows delivers Ctrl-C only between waits, never inside one, so no wait is endless.
WAIT_S = 0.5
# A read or a write may hang in a pipe. Who stops gives it this long, then leaves it to the end of
# the process: the thread is a daemon.
PATIENCE_S = 5.0


class _Belt(Generic[T]):
    """A bounded queue between two threads, which either of them can stop."""

    def __init__(self, depth: int) -> None:
        if depth < 1:
            raise ValueError(f"a queue of depth {depth} holds nothing: depth must be 1 or more")
        self.error: BaseException | None = None
        self._depth = depth
        self._items: deque[T] = deque()
        self._ended = False
        self._stopped = False
        # Its lock is re-entrant: a garbage collection may close an abandoned `prefetch` from
        # inside these very methods.
        self._changed = Condition()

    def put(self, item: T) -> bool:
        """Wait for room and leave ``item`` there; False if nobody takes items any more."""
        with self._changed:
            while len(self._items) >= self._depth and not self._stopped:
                self._changed.wait(WAIT_S)
            if self._stopped:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def __iter__(self) -> Iterator[T]:
        """The items in order, until the belt has ended and is empty, or was stopped."""
        while True:
            with self._changed:
                while not (self._items or self._ended or self._stopped):
                    self._changed.wait(WAIT_S)
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
            del item

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more comes; what lies on the belt is still delivered."""
        with self._changed:
            self.error, self._ended = error or self.error, True
            self._changed.notify_all()

    def stop(self, error: BaseException | None = None) -> None:
        """Nothing more is taken; what lies on the belt is dropped."""
        with self._changed:
            self.error, self._stopped = error or self.error, True
            self._items.clear()
            self._changed.notify_all()


class _Worker(Thread):
    """A daemon thread whose end can be awaited under Ctrl-C.

    ``done`` tells of it, not ``is_alive``: in Python 3.11 a ``join`` that Ctrl-C interrupts takes
    the thread for ended while it still runs.
    """

    def __init__(self, work: Callable[[], None], name: str) -> None:
        super().__init__(target=work, name=name, daemon=True)
        self.done = Event()

    def run(self) -> None:
        """Do the work, then say that it is done."""
        try:
            super().run()
        finally:
            self.done.set()

    def await_end(self) -> None:
        """Wait until the thread is gone, at most PATIENCE_S."""
        # A garbage collection may close an abandoned `prefetch` from any thread, even this one.
        if current_thread() is not self and self.done.wait(PATIENCE_S):
            self.join()


def prefetch(iterable: Iterable[T], depth: int) -> Generator[T, None, None]:
    """The items of ``iterable``, in order, read ahead in a thread of their own.

    The thread starts at the first ``next``. At most ``depth`` items wait in the queue and one more
    in the reader's hand. An exception of the source arrives after the items before it, with its
    traceback. Closing or dropping the returned generator stops the reader after the item it is
    at, and closes a source that is a generator, in the reader's thread; what that closing raises
    goes to ``threading.excepthook``, since nobody is left to catch it.

    Raises:
        ValueError: ``depth`` is less than 1.
    """
    return _prefetched(iter(iterable), _Belt(depth))


def _prefetched(source: Iterator[T], belt: _Belt[T]) -> Generator[T, None, None]:
    reader = _Worker(lambda: _read(source, belt), "vrestore-prefetch")
    reader.start()
    try:
        yield from belt
    finally:
        belt.stop()
        reader.await_end()
    if belt.error is not None:
        error, belt.error = belt.error, None
        try:
            raise error
        finally:
            del error  # else the traceback keeps its own frames, and their pictures, alive


def _read(source: Iterator[T], belt: _Belt[T]) -> None:
    try:
        for item in source:
            if not belt.put(item):
                break
            del item
    except BaseException as error:
        belt.end(error)
    else:
        belt.end()
    finally:
        if isinstance(source, Generator):
            source.close()


class WritingBehind(Generic[T]):
    """Calls ``write`` with each item put into it, in order, in a thread of its own.

    ::

        with WritingBehind(encoder.write, depth=8) as behind:
            behind.put(frame)

    At most ``depth`` items wait and one is being written. Leaving the block waits until all is
    written. Leaving it by an exception drops what waits and stops after the item being written.
    An exception of ``write`` ends the writing; it is raised by every later ``put`` and, if the
    block ends without an exception, there.

    Raises:
        ValueError: ``depth`` is less than 1.
    """

    def __init__(self, write: Callable[[T], object], depth: int) -> None:
        self._write = write
        self._belt: _Belt[T] = _Belt(depth)
        self._writer = _Worker(self._run, "vrestore-writing-behind")

    def __enter__(self) -> WritingBehind[T]:
        self._writer.start()
        return self

    def put(self, item: T) -> None:
        """Queue ``item``, waiting for room. Raises what ``write`` raised, if it did."""
        if not self._belt.put(item):
            raise self._belt.error or RuntimeError("put after the writing has ended")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._belt.end()
                while not self._writer.done.wait(WAIT_S):
                    pass
        finally:
            self._belt.stop()
            self._writer.await_end()
        if kind is None and self._belt.error is not None:
            raise self._belt.error

    def _run(self) -> None:
        try:
            for item in self._belt:
                self._write(item)
                del item
        except BaseException as error:
            self._belt.stop(error)
