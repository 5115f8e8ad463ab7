"""Reading ahead and writing behind: order, bounds, errors both ways, and no thread left."""

from __future__ import annotations

import gc
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from threading import Event, current_thread, main_thread

import pytest

from vrestore.engine import prefetch as module
from vrestore.engine.prefetch import WritingBehind, _Belt, prefetch

SOON_S = 10.0  # waiting longer than this is a failure; nothing waits so long when all is well


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if isinstance(thread, threading.Timer):  # the tests' own
            thread.join(SOON_S)
    assert set(threading.enumerate()) <= before


class Source:
    """Counts up to ``end``; knows how far it was read, in which thread, and where it was closed."""

    def __init__(self, end: int = 10**9) -> None:
        self.end = end
        self.read = 0
        self.reached: dict[int, Event] = {}
        self.threads: set[threading.Thread] = set()
        self.closed_in: threading.Thread | None = None

    def reaching(self, count: int) -> Event:
        return self.reached.setdefault(count, Event())

    def __iter__(self) -> Iterator[int]:
        try:
            for n in range(self.end):
                self.threads.add(current_thread())
                self.read += 1
                if self.read in self.reached:
                    self.reached[self.read].set()
                yield n
        finally:
            self.closed_in = current_thread()


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[], None]]:
    """Presses Ctrl-C, as the terminal does, and returns when the main thread has noticed."""
    if not hasattr(signal, "pthread_kill"):
        pytest.skip("no signal can be sent to the main thread here")
    noticed = Event()

    def interrupt(*_: object) -> None:
        noticed.set()
        raise KeyboardInterrupt

    def press() -> None:
        main = main_thread().ident
        assert main is not None
        noticed.wait(0.05)  # long enough for the main thread to be deep in its wait
        signal.pthread_kill(main, signal.SIGINT)
        assert noticed.wait(SOON_S)

    former = signal.signal(signal.SIGINT, interrupt)
    yield press
    signal.signal(signal.SIGINT, former)


# Reading ahead


@pytest.mark.parametrize("depth", [1, 2, 7, 1000])
def test_everything_arrives_in_order(depth: int) -> None:
    assert list(prefetch(range(500), depth)) == list(range(500))
    assert list(prefetch([], depth)) == []


def test_the_source_is_read_while_the_consumer_works() -> None:
    source = Source()
    third = source.reaching(3)
    with closing(prefetch(source, 4)) as items:
        assert next(items) == 0
        assert third.wait(SOON_S)  # nothing was asked for meanwhile
        assert next(items) == 1
    assert main_thread() not in source.threads
    assert len(source.threads) == 1


def test_no_more_than_the_queue_and_one_are_read_ahead() -> None:
    source = Source()
    depth = 3
    with closing(prefetch(source, depth)) as items:
        for taken in range(1, 20):
            full = source.reaching(taken + depth + 1)
            next(items)
            assert full.wait(SOON_S)
            assert source.read <= taken + depth + 1
            assert not source.reaching(taken + depth + 2).wait(0.005)


def test_nothing_starts_before_the_first_item_is_asked_for() -> None:
    source = Source()
    items = prefetch(source, 2)
    assert source.read == 0
    assert threading.active_count() == 1
    del items


def test_an_error_of_the_source_arrives_after_the_items_before_it_and_with_its_traceback() -> None:
    def a_broken_film() -> Iterator[int]:
        yield 0
        yield 1
        raise OSError("the disk is gone")

    items = prefetch(a_broken_film(), 8)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone") as caught:
        next(items)
    names = [entry.name for entry in traceback.extract_tb(caught.tb)]
    assert "a_broken_film" in names
    assert list(items) == []


def test_an_error_nobody_came_to_is_not_raised() -> None:
    broken = Event()

    def breaks_later() -> Iterator[int]:
        yield 0
        broken.set()
        raise OSError

    with closing(prefetch(breaks_later(), 8)) as items:
        assert next(items) == 0
        assert broken.wait(SOON_S)


def test_closing_stops_a_reader_that_waits_for_room_and_closes_the_source_in_its_thread() -> None:
    source = Source()
    full = source.reaching(4)
    items = prefetch(iter(source), 2)
    next(items)
    assert full.wait(SOON_S)
    items.close()
    assert source.closed_in in source.threads
    assert source.read == 4
    assert list(items) == []


def test_dropping_the_iterator_stops_the_reader() -> None:
    source = Source()
    items = prefetch(iter(source), 2)
    next(items)
    del items
    gc.collect()
    assert source.closed_in is not None


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
def test_an_exception_in_the_consumer_stops_the_reader(kind: type[BaseException]) -> None:
    source = Source()

    def consume() -> None:
        with closing(prefetch(iter(source), 2)) as items:
            for n in items:
                if n == 5:
                    raise kind

    with pytest.raises(kind):
        consume()
    assert source.closed_in in source.threads


def test_ctrl_c_reaches_a_consumer_that_waits_for_a_slow_source(
    ctrl_c: Callable[[], None],
) -> None:
    def slow() -> Iterator[int]:
        yield 0
        ctrl_c()

    with closing(prefetch(slow(), 2)) as items:
        assert next(items) == 0
        with pytest.raises(KeyboardInterrupt):
            next(items)


def test_a_reader_that_hangs_does_not_hold_up_the_consumer_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    hanging, release = Event(), Event()

    def hangs() -> Iterator[int]:
        yield 0
        hanging.set()
        release.wait(SOON_S)

    items = prefetch(hangs(), 2)
    next(items)
    assert hanging.wait(SOON_S)
    items.close()
    (reader,) = (t for t in threading.enumerate() if t.name == "vrestore-prefetch")
    assert reader.daemon
    release.set()
    reader.join(SOON_S)


def test_one_reader_may_feed_another() -> None:
    source = Source()
    with closing(prefetch(prefetch(iter(source), 2), 2)) as items:
        assert [next(items) for _ in range(50)] == list(range(50))
    assert source.closed_in is not None


def test_a_file_that_is_read_is_not_closed() -> None:
    with open(__file__, encoding="utf-8") as lines:
        with closing(prefetch(lines, 1)) as ahead:
            next(ahead)
        assert not lines.closed


@pytest.mark.parametrize("depth", [0, -1])
def test_a_queue_of_no_depth_is_refused_at_once(depth: int) -> None:
    with pytest.raises(ValueError, match="depth"):
        prefetch([], depth)
    with pytest.raises(ValueError, match="depth"):
        WritingBehind(print, depth)


# Writing behind


@pytest.mark.parametrize("depth", [1, 3, 1000])
def test_everything_is_written_in_order_before_the_block_is_left(depth: int) -> None:
    written: list[int] = []
    with WritingBehind(written.append, depth) as behind:
        for n in range(500):
            behind.put(n)
    assert written == list(range(500))


def test_nothing_put_is_nothing_written() -> None:
    written: list[int] = []
    with WritingBehind(written.append, 1):
        pass
    assert written == []


def test_items_are_put_while_the_writer_works_but_no_more_than_the_depth() -> None:
    depth = 3
    writing, go_on, put_one_more = Event(), Event(), Event()
    written: list[int] = []

    def write(n: int) -> None:
        writing.set()
        assert go_on.wait(SOON_S)
        written.append(n)

    def fill(behind: WritingBehind[int]) -> None:
        behind.put(depth + 1)
        put_one_more.set()

    with WritingBehind(write, depth) as behind:
        behind.put(0)
        assert writing.wait(SOON_S)
        for n in range(1, depth + 1):
            behind.put(n)  # returns although nothing has been written yet
        assert written == []
        filler = threading.Thread(target=fill, args=(behind,))
        filler.start()
        assert not put_one_more.wait(0.05)
        go_on.set()
        filler.join(SOON_S)
        assert put_one_more.is_set()
    assert written == list(range(depth + 2))


def no_space(n: int) -> None:
    if n == 2:
        raise OSError("no space left")


def test_an_error_of_the_writer_is_raised_by_a_later_put_with_its_traceback() -> None:
    put: list[int] = []

    def work() -> None:
        with WritingBehind(no_space, 2) as behind:
            for n in range(10**6):
                behind.put(n)
                put.append(n)

    with pytest.raises(OSError, match="no space left") as caught:
        work()
    assert "no_space" in [entry.name for entry in traceback.extract_tb(caught.tb)]
    assert len(put) < 10


def test_an_error_at_the_last_item_is_raised_when_the_block_is_left() -> None:
    def work() -> None:
        with WritingBehind(no_space, 8) as behind:
            for n in range(3):
                behind.put(n)

    with pytest.raises(OSError, match="no space left"):
        work()


def test_an_error_just_as_the_block_is_left_is_raised_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leaving, end = Event(), _Belt.end

    def end_late(belt: _Belt[int], error: BaseException | None = None) -> None:
        leaving.set()
        assert behind._writer.done.wait(5)
        end(belt, error)

    def write(_: int) -> None:
        leaving.wait(5)
        no_space(2)

    monkeypatch.setattr(_Belt, "end", end_late)
    with pytest.raises(OSError, match="no space left"), WritingBehind(write, 8) as behind:
        behind.put(1)


def test_an_error_that_the_block_swallowed_is_raised_when_it_is_left() -> None:
    def work() -> None:
        with WritingBehind(no_space, 1) as behind, suppress(OSError):
            for n in range(10):
                behind.put(n)

    with pytest.raises(OSError, match="no space left"):
        work()


def test_a_writer_that_fails_frees_whoever_waits_for_room() -> None:
    fail = Event()

    def write(n: int) -> None:
        fail.wait(SOON_S)
        raise OSError("no space left")

    def work() -> None:
        with WritingBehind(write, 1) as behind:
            behind.put(0)
            threading.Timer(0.05, fail.set).start()
            for n in range(1, 4):
                behind.put(n)

    with pytest.raises(OSError, match="no space left"):
        work()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
def test_an_exception_in_the_block_drops_what_waits(kind: type[BaseException]) -> None:
    writing, go_on = Event(), Event()
    written: list[int] = []

    def write(n: int) -> None:
        writing.set()
        go_on.wait(SOON_S)
        written.append(n)

    def work() -> None:
        with WritingBehind(write, 8) as behind:
            for n in range(8):
                behind.put(n)
            assert writing.wait(SOON_S)
            threading.Timer(0.05, go_on.set).start()
            raise kind

    with pytest.raises(kind):
        work()
    assert written == [0]


def test_the_error_of_the_block_wins_over_that_of_the_writer() -> None:
    failed = Event()

    def write(n: int) -> None:
        failed.set()
        raise OSError

    def work() -> None:
        with WritingBehind(write, 1) as behind:
            behind.put(0)
            assert failed.wait(SOON_S)
            raise ValueError("the block")

    with pytest.raises(ValueError, match="the block"):
        work()


def test_ctrl_c_while_the_rest_is_written_drops_the_rest(ctrl_c: Callable[[], None]) -> None:
    written: list[int] = []
    all_are_put = Event()
    count = 1000

    def write(n: int) -> None:
        if n == 0:
            assert all_are_put.wait(SOON_S)
            ctrl_c()
        Event().wait(0.01)
        written.append(n)

    def work() -> None:
        with WritingBehind(write, count) as behind:
            for n in range(count):
                behind.put(n)
            all_are_put.set()

    with pytest.raises(KeyboardInterrupt):
        work()
    assert len(written) < count
    assert written == list(range(len(written)))


def test_a_put_after_the_end_is_refused() -> None:
    written: list[int] = []
    with WritingBehind(written.append, 1) as behind:
        behind.put(1)
    with pytest.raises(RuntimeError, match="ended"):
        behind.put(2)
    assert written == [1]
